"""Sampling trajectories, and what a sample owes to its noise, its label and each sampling option."""

import itertools
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from mnistgen.errors import UsageError
from mnistgen.model import GenerativeModel, HasTrajectory, Noise
from mnistgen.sampling.sampler import BATCH, calling, checked_options, device_of, labels_of, pixels, sample


def sample_trajectory(
    model: GenerativeModel, labels: Tensor | Sequence[int], *, seed: int = 0, frames: int = 0, **options: Any
) -> Tensor:
    """The images of `sample` as they form: (steps, n, 1, 28, 28) uint8, the last of them `sample`'s.

    `frames`, if there are more steps than that: as many of them, evenly spread, the last one among them. Raises
    `UsageError` for a model whose samples do not form step by step.
    """
    steps = list(trajectory_steps(model, labels, seed=seed, **options))
    if frames and frames < len(steps):
        steps = [steps[place] for place in evenly(len(steps), frames)]
    return torch.stack(steps)


def trajectory_steps(
    model: GenerativeModel, labels: Tensor | Sequence[int], *, seed: int = 0, **options: Any
) -> Iterator[Tensor]:
    """`sample_trajectory`, yielding each step (n, 1, 28, 28) uint8 as it is done."""
    if not isinstance(model, HasTrajectory):
        raise UsageError(f"{type(model).__name__} generates an image in one step, so there is no sampling trajectory.")
    options = checked_options(model, options)
    y, device = labels_of(model, labels), device_of(model)
    with calling(model, "sample_trajectory"):
        steps = iter(model.sample_trajectory(y.to(device), noise=Noise(seed, range(len(y)), device), **options))
    while True:
        with calling(model, "sample_trajectory"):  # not around the yield: modes would leak into the caller
            step = list(itertools.islice(steps, 1))
        if not step:
            return
        yield pixels(step[0], len(y), model, "sample_trajectory")


def evenly(total: int, number: int) -> list[int]:
    """Choose at most `number` of the places 0 to total - 1, evenly spread, the last one among them."""
    if number >= total:
        return list(range(total))
    return [total - 1] if number == 1 else torch.linspace(0, total - 1, number).round().int().tolist()


def sweep(
    model: GenerativeModel,
    labels: Tensor | Sequence[int],
    option: str,
    values: Sequence[Any],
    *,
    seed: int = 0,
    batch_size: int = BATCH,
    **options: Any,
) -> Tensor:
    """The same images with each value of a sampling option: (n * len(values), 1, 28, 28) uint8, one row per label.

    A row has one noise, and differs by that option alone; the remaining `options` are as given.
    """
    columns = [
        sample(model, labels, seed=seed, batch_size=batch_size, **{**options, option: value})
        for value in values
    ]  # fmt: skip
    return torch.stack(columns, dim=1).flatten(0, 1)


def fixed_latent(
    model: GenerativeModel, labels: Tensor | Sequence[int], *, rows: int = 8, seed: int = 0, **options: Any
) -> Tensor:
    """Images of one latent per row, given each label in turn: (rows * n, 1, 28, 28) uint8.

    The first image of a row is what `sample` gives for that label in that place.
    """
    y, device = labels_of(model, labels), device_of(model)
    options = checked_options(model, options)
    images = []
    with calling(model, "sample"):
        for row in range(rows):
            noise = Noise(seed, list(repeat(row, len(y))), device)
            images.append(pixels(model.sample(y.to(device), noise=noise, **options), len(y), model, "sample"))
    return torch.cat(images)
