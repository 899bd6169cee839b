"""Explore: the surface of a model's codes, the way from one digit to another, and what one coordinate does."""

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from mnistgen.data import to_float
from mnistgen.demo.models import Models
from mnistgen.limits import checked_seed
from mnistgen.sampling import (
    coder_of,
    decoder_of,
    interpolate,
    interpolate_images,
    sample,
    traverse_coordinate,
)
from mnistgen.sampling.latents import decode_batches, manifold_codes, surface_codes

STEPS = 10  # of a row


def surface(models: Models, name: str, corners: Sequence[int], steps: int, seed: int) -> Iterator[Tensor]:
    """All codes of a model of two coordinates, else those between four; rows so far, (rows * steps, 1, 28, 28) uint8.

    `corners`: the classes at the top left, top right, bottom left and bottom right; a model of two coordinates shows
    the first of them alone. Raises `UsageError` for a model without codes.
    """
    model = models.load(name)
    if prod(decoder_of(model).latent_shape) == 2:
        z, y = manifold_codes(model, corners[0], steps=steps)
    else:
        z, y = surface_codes(model, corners, steps=steps, seed=checked_seed(seed))
    yield from _together(decode_batches(model, z, y, batch_size=steps))


def ways(models: Models, name: str, start: int, end: int, rows: int, seed: int) -> Iterator[Tensor]:
    """From one class to the other: the rows so far, (rows * STEPS, 1, 28, 28) uint8. Row i has the seed + i."""
    model, seed = models.load(name), checked_seed(seed)
    one_by_one = (interpolate(model, start, end, steps=STEPS, rows=1, seed=seed + row) for row in range(rows))
    yield from _together(one_by_one)


def way_between(
    models: Models, name: str, ends: tuple[Tensor | None, Tensor | None], labels: tuple[int, int], seed: int
) -> Tensor:
    """From one image to the other, (STEPS + 2, 1, 28, 28) uint8; the model draws an image that is None.

    Raises `UsageError` for a model that has no codes of given images.
    """
    model = models.load(name)
    coder_of(model)
    drawn = sample(model, labels, seed=checked_seed(seed))
    images = torch.stack([drawn[place] if end is None else end for place, end in enumerate(ends)])
    return interpolate_images(model, to_float(images)[None], torch.tensor([labels]), steps=STEPS)


def coordinate(models: Models, name: str, number: int, digits: Sequence[int], span: float, seed: int) -> Tensor:
    """One coordinate of a code from -span to span, a row for each digit: (n * 11, 1, 28, 28) uint8."""
    return traverse_coordinate(models.load(name), number, digits, span=span, seed=checked_seed(seed))


def _together(parts: Iterator[Tensor]) -> Iterator[Tensor]:
    done: list[Tensor] = []
    for part in parts:
        done.append(part)
        yield torch.cat(done)
