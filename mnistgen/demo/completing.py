"""Complete: a digit with parts marked, which a model fills in; and variations of a digit."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mnistgen.data import to_float
from mnistgen.demo.canvas import Canvas
from mnistgen.demo.models import Models
from mnistgen.errors import UsageError
from mnistgen.limits import checked_seed
from mnistgen.sampling import editor_of, inpaint, sample, vary

PIECE = 2  # answers at a time, so that the first are seen early


def new_digit(models: Models, name: str, digit: int, seed: int) -> Tensor:
    """One image to begin with, (1, 28, 28) uint8."""
    return sample(models.load(name), [digit], seed=checked_seed(seed))[0]


def complete(models: Models, name: str, canvas: Canvas, digit: int, answers: int, seed: int) -> Iterator[Tensor]:
    """The marked part filled in, several times: the answers so far, (n, 1, 28, 28) uint8.

    Raises `UsageError` where nothing is marked, or the model does not edit.
    """
    if not canvas.mask.any():
        raise UsageError("Nothing is marked: paint in orange over what the model is to fill in.")
    model, seed = models.load(name), checked_seed(seed)
    editor_of(model)

    def piece(x: Tensor, labels: list[int], first: int) -> Tensor:
        return inpaint(model, x, labels, canvas.mask, seed=seed, first=first)

    yield from _pieces(piece, canvas.image, digit, answers)


def variations(
    models: Models, name: str, canvas: Canvas, digit: int, strength: float, answers: int, seed: int
) -> Iterator[Tensor]:
    """Variations of what is on the canvas: those so far, (n, 1, 28, 28) uint8. Raises as `complete`."""
    if not canvas.image.any():
        raise UsageError("The canvas is empty: draw a digit, or let a model draw one.")
    model, seed = models.load(name), checked_seed(seed)
    editor_of(model)

    def piece(x: Tensor, labels: list[int], first: int) -> Tensor:
        return vary(model, x, labels, strength=strength, seed=seed, first=first)

    yield from _pieces(piece, canvas.image, digit, answers)


def _pieces(make: Callable[[Tensor, list[int], int], Tensor], image: Tensor, digit: int, n: int) -> Iterator[Tensor]:
    done: list[Tensor] = []
    for first in range(0, n, PIECE):
        some = min(PIECE, n - first)
        done.append(make(to_float(image).repeat(some, 1, 1, 1), [digit] * some, first))
        yield torch.cat(done)
