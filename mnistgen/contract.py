"""The contract between a model and the host, one sentence per rule; the first step of a run and `mnistgen.testing` ask
alike."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from mnistgen.errors import ContractError, MnistgenError, PluginError, described
from mnistgen.model import IMAGE_SHAPE, Loss

MOST_LOSSES = 1000  # in one step; a generator that yields more has no end
YIELD = "yield mnistgen.Loss(value, module, logs)"


def check_losses(found: Any) -> Iterator[Any]:
    """Iterate over what `losses()` returned, at most `MOST_LOSSES`. Raises `ContractError`."""
    if isinstance(found, Loss | Tensor) or not isinstance(found, Iterable):
        raise ContractError(f"losses() returns {_kind(found)}; it must be a generator: {YIELD}.")
    count = 0
    for count, loss in enumerate(found, 1):
        if count > MOST_LOSSES:
            raise ContractError(
                f"losses() has yielded {MOST_LOSSES:,} losses in one step and goes on; end it after those of one batch."
            )
        yield loss
    if not count:
        raise ContractError(f"losses() yields nothing for a batch; {YIELD} at least once.")


def check_loss(loss: Any, which: str, *, finite: bool = True) -> None:
    """Raise `ContractError` unless `loss` is a `Loss` that can be minimised; with `finite`, of finite numbers."""
    if not isinstance(loss, Loss):
        raise ContractError(f"{which} is {_kind(loss)}; {YIELD}.")
    value = loss.value
    if not isinstance(value, Tensor) or value.ndim != 0 or not value.is_floating_point():
        raise ContractError(f"{which} has as value {_kind(value)}; it must be a scalar float tensor, such as a mean.")
    if finite and not value.isfinite():
        raise ContractError(f"{which} is {value.item()}; keep it finite (clamp logarithms and divisions).")
    if not value.requires_grad:
        raise ContractError(f"{which} has no gradient; compute and yield it outside of no_grad, and do not detach it.")
    if not isinstance(loss.module, nn.Module):
        raise ContractError(f"{which} names {_kind(loss.module)} as its module; name self or a part of it.")
    if not isinstance(loss.logs, Mapping):
        raise ContractError(f"{which} has as logs {_kind(loss.logs)}; they are a dict of names and scalar tensors.")
    for name, log in loss.logs.items():
        scalar = isinstance(name, str) and isinstance(log, Tensor) and log.numel() == 1 and not log.is_complex()
        if not scalar or (finite and not log.isfinite()):
            shown = log.item() if scalar else _kind(log)
            raise ContractError(f"{which} logs {name!r}: {shown}; logs are finite scalar tensors by name.")


def check_optimizers(found: Any, model: nn.Module) -> dict[nn.Module, Optimizer]:
    """Check what `optimizers()` returned, and return it. Raises `ContractError` unless it has an optimizer for each of
    its modules."""
    parts = set(model.modules())
    if not isinstance(found, dict) or not found:
        raise ContractError(f"optimizers() returns {_kind(found)}; return {{module: optimizer}}, one for each loss.")
    for module, optimizer in found.items():
        if not isinstance(module, nn.Module) or not isinstance(optimizer, Optimizer):
            raise ContractError(
                f"optimizers() has {_kind(optimizer)} for {_kind(module)}; return torch optimizers by module."
            )
        if module not in parts:
            raise ContractError(
                f"optimizers() has one for a {type(module).__name__} that is no part of the model; register it as an "
                "attribute, or its weights are not saved."
            )
    return found


def optimizer_of(optimizers: Mapping[nn.Module, Optimizer], loss: Loss) -> Optimizer:
    """The optimizer of the module that a loss names. Raises `ContractError` where there is none."""
    if loss.module not in optimizers:
        raise ContractError(
            f"losses() yields a loss for {type(loss.module).__name__}, for which optimizers() has no optimizer; "
            "return one for each module that a loss names."
        )
    return optimizers[loss.module]


def check_validation_loss(loss: Any) -> None:
    """Raise `ContractError` unless `loss` is a scalar, or None."""
    if loss is not None and not (isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex()):
        raise ContractError(
            f"validation_loss() returns {_kind(loss)}; it must be a finite scalar, or None where there is none."
        )


def check_output(images: Any, n: int, what: str) -> None:
    """Raise `ContractError` unless `images` are n finite float images."""
    if not isinstance(images, Tensor) or images.shape != (n, *IMAGE_SHAPE) or not images.is_floating_point():
        raise ContractError(f"{what} returns {_kind(images)} for {n} labels; it must be ({n}, 1, 28, 28) float.")
    if not images.isfinite().all():
        raise ContractError(f"{what} returns pixels that are not finite.")


@contextmanager
def told(what: str, model: type) -> Iterator[None]:
    """Whatever the plugin's own code raises inside becomes a `PluginError` that says where in the plugin it is."""
    try:
        yield
    except MnistgenError:
        raise
    except Exception as error:
        raise PluginError(f"{what} of {model.__name__} fails: {described(error)} ({place(error, model)}).") from error


def place(error: BaseException, model: type) -> str:
    """The innermost line of the model's own package that an error came through, as file:line."""
    home = _home(model)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if home is not None and Path(frame.filename).is_relative_to(home)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else f"called from {frames[-1].filename}:{frames[-1].lineno}"


def _home(model: type) -> Path | None:
    """The folder of the top-level package that defines a class, or the file of a module that is in none."""
    try:
        source = Path(inspect.getfile(model))
    except (TypeError, OSError):  # made in a prompt
        return None
    depth = model.__module__.count(".") + (source.name == "__init__.py")
    return source.parents[depth - 1] if depth else source


def _kind(value: Any) -> str:
    """Describe a value in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    shape = f" {tuple(value.shape)}" if isinstance(getattr(value, "shape", None), tuple) else ""
    return f"an object of type {type(value).__name__}{shape}"
