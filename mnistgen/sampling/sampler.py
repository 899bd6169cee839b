"""Seeded sampling, one seed an image."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mnistgen.building import float32
from mnistgen.contract import check_output, told
from mnistgen.data import to_uint8
from mnistgen.errors import UsageError
from mnistgen.limits import LARGEST_OPTION
from mnistgen.model import IMAGE_SHAPE, GenerativeModel, Noise
from mnistgen.room import require_room

BATCH = 250


def sample(
    model: GenerativeModel, labels: Tensor | Sequence[int], *, seed: int = 0, batch_size: int = BATCH, **options: Any
) -> Tensor:
    """Sample one image for each label: (n,) -> (n, 1, 28, 28) uint8 on the CPU, 0 black and 255 white.

    Image i depends on `(seed, i)` and its label alone, not on the batch size. `options` go to `model.sample`. Raises
    `UsageError` on a label that the model does not have, a number that is not finite, and a batch that does not fit
    into memory.
    """
    batches = list(sample_batches(model, labels, seed=seed, batch_size=batch_size, **options))
    return torch.cat(batches) if batches else torch.empty(0, 1, 28, 28, dtype=torch.uint8)


def sample_batches(
    model: GenerativeModel,
    labels: Tensor | Sequence[int],
    *,
    seed: int = 0,
    batch_size: int = BATCH,
    first: int = 0,
    **options: Any,
) -> Iterator[Tensor]:
    """`sample`, yielding each batch (b, 1, 28, 28) uint8 as it is done.

    `first` is the place of the first label in the whole call, where these labels are a part of it.
    """
    y = labels_of(model, labels)
    device = device_of(model)
    options = checked_options(model, options)
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1.")

    def sampled(indices: range) -> Tensor:
        noise = Noise(seed, range(first + indices.start, first + indices.stop), device)
        with calling(model, "sample"):
            return model.sample(y[indices.start : indices.stop].to(device), noise=noise, **options)

    at_a_time = min(batch_size, len(y))
    what = f"Sampling {at_a_time} images at a time (--batch-size)"
    require_room(at_a_time, device, what, lambda n: sampled(range(n)))
    for start in range(0, len(y), batch_size):
        indices = range(start, min(start + batch_size, len(y)))
        images = sampled(indices)
        yield pixels(images, len(indices), model, "sample")


@contextmanager
def calling(model: GenerativeModel, method: str) -> Iterator[None]:
    """Inside, the model is in eval mode and without gradients; an error of its own says where in it `method` failed."""
    with told(f"{method}()", type(model)), torch.no_grad(), Eval(model):
        yield


def pixels(images: Tensor, n: int, model: GenerativeModel, method: str) -> Tensor:
    """Convert what `method` returned to uint8 on the CPU. Raises `ContractError` where it is not n images."""
    check_output(images, n, f"{type(model).__name__}.{method}()")
    return to_uint8(images).cpu()


class Eval:
    """Eval mode and float32 inside, the caller's mode and default of floats afterwards."""

    def __init__(self, model: GenerativeModel) -> None:
        self.model, self.training = model, model.training
        self.floats = float32()

    def __enter__(self) -> None:
        self.floats.__enter__()
        self.model.eval()

    def __exit__(self, *error: Any) -> None:
        self.model.train(self.training)
        self.floats.__exit__(*error)


def device_of(model: GenerativeModel) -> torch.device:
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def checked_options(model: GenerativeModel, options: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling options by their present names.

    Raises `UsageError` where a number is NaN or infinite, or a whole one beyond all use.
    """
    for name, value in options.items():
        if name in model.former_options:
            warnings.warn(f"{name} is called {model.former_options[name]} now.", DeprecationWarning, stacklevel=4)
        if isinstance(value, int) and abs(value) > LARGEST_OPTION:
            raise UsageError(f"{name} is {value}; it must be at most {LARGEST_OPTION}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name} is {value}; it must be finite.")
    return {model.former_options.get(name, name): value for name, value in options.items()}


def labels_of(model: GenerativeModel, labels: Tensor | Sequence[int]) -> Tensor:
    """The labels, (n,) int64 on the CPU. Raises `UsageError` on one that the model was not trained on."""
    given = torch.as_tensor(labels).detach().cpu()
    y = given.to(torch.int64)
    if not torch.equal(y.to(given.dtype), given):
        raise UsageError(f"Labels are whole numbers, not {given.dtype}.".replace("torch.", ""))
    if y.ndim != 1:
        raise UsageError(f"Labels are a row of integers, (n,), not {tuple(y.shape)}.")
    known = model.trained_classes or (0,)  # without labels, a model is told 0 of each image
    wrong = (~torch.isin(y, torch.tensor(known))).nonzero()
    if len(wrong):
        raise UsageError(f"There is no label {int(y[wrong[0]])}; {known_classes(model)}")
    return y


def known_classes(model: GenerativeModel) -> str:
    """A sentence that says which labels the model may be asked for."""
    classes = model.trained_classes
    if not classes:
        return "this model was trained without labels, and is asked for 0."
    if classes == tuple(range(model.num_classes)):
        return f"this model knows 0 to {model.num_classes - 1}."
    return f"this model was trained on {', '.join(map(model.class_name, classes))} alone."


def require_images(x: Tensor, y: Tensor) -> None:
    """Raise `UsageError` unless x is (n, 1, 28, 28) float with n labels."""
    if x.shape[1:] != IMAGE_SHAPE or not x.is_floating_point() or len(x) != len(y):
        raise UsageError(
            f"Images are (n, 1, 28, 28) float in [-1, 1], which `to_float` makes of pixels, with n labels; these are "
            f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}, with {len(y)}."
        )
