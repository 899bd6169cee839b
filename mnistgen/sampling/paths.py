"""How a sample comes into being, and what it owes to its noise, its label and each knob."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from mnistgen.errors import UsageError
from mnistgen.model import GenerativeModel, HasPath, Noise
from mnistgen.sampling.draw import BATCH, asked, device_of, labels_of, pixels, require_finite, sample


def sample_path(
    model: GenerativeModel, labels: Tensor | Sequence[int], *, seed: int = 0, frames: int = 0, **knobs: Any
) -> Tensor:
    """The images of `sample` as they form: (steps, n, 1, 28, 28) uint8, the last of them `sample`'s.

    `frames`, if there are more steps than that: as many of them, evenly spread, the last one among them. Raises
    `UsageError` for a model whose samples do not form step by step.
    """
    if not isinstance(model, HasPath):
        raise UsageError(f"{type(model).__name__} draws an image at once, so there is no path from noise to it.")
    require_finite(knobs)
    y, device = labels_of(model, labels), device_of(model)
    with asked(model, "sample_path"):
        path = model.sample_path(y.to(device), noise=Noise(seed, range(len(y)), device), **knobs)
        steps = [pixels(images, len(y), model, "sample_path") for images in path]
    if frames and frames < len(steps):
        steps = [steps[place] for place in evenly(len(steps), frames)]
    return torch.stack(steps)


def evenly(total: int, number: int) -> list[int]:
    """At most `number` of the places 0 to total - 1, evenly spread, the last one among them."""
    if number >= total:
        return list(range(total))
    return [total - 1] if number == 1 else torch.linspace(0, total - 1, number).round().int().tolist()


def sweep(
    model: GenerativeModel,
    labels: Tensor | Sequence[int],
    knob: str,
    values: Sequence[Any],
    *,
    seed: int = 0,
    batch_size: int = BATCH,
    **knobs: Any,
) -> Tensor:
    """The same images with each value of a sampling option: (n * len(values), 1, 28, 28) uint8, one row per label.

    A row has one noise, and differs by the knob alone; the remaining `knobs` are as given.
    """
    columns = [
        sample(model, labels, seed=seed, batch_size=batch_size, **{**knobs, knob: value})
        for value in values
    ]  # fmt: skip
    return torch.stack(columns, dim=1).flatten(0, 1)


def same_noise(
    model: GenerativeModel, labels: Tensor | Sequence[int], *, rows: int = 8, seed: int = 0, **knobs: Any
) -> Tensor:
    """One noise a row, given each label in turn: (rows * n, 1, 28, 28) uint8.

    The first image of a row is what `sample` gives for that label in that place.
    """
    y, device = labels_of(model, labels), device_of(model)
    require_finite(knobs)
    images = []
    with asked(model, "sample"):
        for row in range(rows):
            noise = Noise(seed, list(repeat(row, len(y))), device)
            images.append(pixels(model.sample(y.to(device), noise=noise, **knobs), len(y), model, "sample"))
    return torch.cat(images)
