"""The state of a training run, and what one step of it was."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mnistgen.errors import CheckpointError, DamagedRunError, TrainingError
from mnistgen.model import Trainable

REMEDY = (
    "The checkpoints written before it are intact; try a lower learning rate (--lr), clipping (--clip-norm 1) or "
    "--precision fp32."
)
_COUNTERS = (
    "step",
    "averaged_step",
    "seconds",
    "progress",
    "best_validation",
    "best_step",
    "validations_since_best",
)
_SHAPED_AS_PARAMETERS = frozenset(
    ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "momentum", "mean", "square")
)


class Step(NamedTuple):
    """One training step. Tensors are scalars on the training device: `float()` waits for the device."""

    number: int  # steps done, counted from 1
    total: int | None  # steps in all; None where a time budget decides
    progress: float  # share of the run that is done, in (0, 1]
    epoch: float  # passes over the training images so far
    images: int  # images trained on so far
    seconds: float  # training time so far, earlier parts of a resumed run included
    lr: float  # factor on every optimizer's peak learning rate in this step, in [0, 1]
    losses: dict[str, Tensor]  # the losses and the model's own logs, averaged over all processes
    validation: float | None  # validation loss of the averaged weights, where this step computed it
    best: bool  # whether that is the best so far
    last: bool  # whether the run ends here
    stopped: bool  # whether it ends because `stop` said so
    run: "Run"

    @property
    def ema(self) -> Trainable:
        """The averaged model in eval mode: what is sampled, scored and saved. It goes on changing."""
        return self.run.ema


@dataclass
class Run:
    """The state of a run; `state_dict` is what exact resuming needs."""

    model: Trainable
    ema: Trainable
    optimizers: dict[nn.Module, torch.optim.Optimizer]
    identity: dict[str, Any]  # what must be the same for a resumed run to be the same run
    step: int = 0
    seconds: float = 0.0
    best_validation: float = math.inf
    best_step: int = 0
    averaged_step: int = 0  # the last one whose weights are in the average
    validations_since_best: int = 0
    progress: float = 0.0
    peaks: list[list[float]] = field(init=False)  # learning rates before any schedule

    def __post_init__(self) -> None:
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers.values()]

    def validated(self, loss: float | None) -> bool:
        """Note a validation loss, where there is one, and return whether it is the best so far."""
        if loss is None:
            return False
        best = loss < self.best_validation
        self.validations_since_best = 0 if best else self.validations_since_best + 1
        if best:
            self.best_validation, self.best_step = loss, self.step
        return best

    def is_out_of(self, patience: int | None) -> bool:
        """Whether so many validations have brought no new best."""
        return patience is not None and self.validations_since_best >= patience

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that it loads with `weights_only=True`.

        Raises `TrainingError` where a weight is not finite: there is nothing to go on from.
        """
        for name, tensor in self.model.state_dict().items():
            if not tensor.isfinite().all():
                raise TrainingError(f"Weight {name} is not finite after step {self.step}. {REMEDY}")
        return {
            "identity": dict(self.identity),
            **{name: getattr(self, name) for name in _COUNTERS},
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises `CheckpointError` where it belongs to another run, and `DamagedRunError` where it is not what that
        returns.
        """
        identity = state.get("identity")
        if not isinstance(identity, Mapping):
            raise DamagedRunError("The state of the run is damaged: it does not say which run it belongs to.")
        for name, mine in self.identity.items():
            theirs = identity.get(name)
            if theirs != mine:
                raise CheckpointError(
                    f"The run to resume was started with {name} {theirs!r}, and this one has {mine!r}. "
                    "Resume with the same, or start anew."
                )
        try:
            counters = {name: _counter(state[name], type(getattr(self, name))) for name in _COUNTERS}
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            for optimizer, saved in zip(self.optimizers.values(), state["optimizers"], strict=True):
                _require_state_of(optimizer, saved)
                optimizer.load_state_dict(saved)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
            raise DamagedRunError(f"The state of the run is damaged: {reason.rstrip('.')}.") from error
        for name, value in counters.items():
            setattr(self, name, value)


def _counter(value: float, kind: type) -> float:
    """A counter of a run as it is in a state. Raises `ValueError`."""
    if type(value) is kind and (value >= 0 if isinstance(value, int) else not math.isnan(float(value))):
        return value
    raise ValueError(f"a counter of the run is {value!r}")


def _require_state_of(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Raise where `saved` is not of this optimizer, as far as torch does not look.

    Which tensors an optimizer keeps is its own business; but it keeps the same ones of all parameters of a group, and
    those that are called so have the parameter's shape.
    """
    keys_of_group: dict[int, set[str]] = {}
    parameters = [(p, n) for n, group in enumerate(optimizer.param_groups) for p in group["params"]]
    for index, kept in saved["state"].items():
        parameter, group = parameters[index]
        if keys_of_group.setdefault(group, set(kept)) != set(kept):
            raise ValueError(f"an optimizer's state lacks something of parameter {index}")
        for key in _SHAPED_AS_PARAMETERS & set(kept):
            if kept[key] is not None and kept[key].shape != parameter.shape:
                raise ValueError(f"an optimizer's {key} of parameter {index} has the shape {tuple(kept[key].shape)}")
