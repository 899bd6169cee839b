"""The order in which images are trained on."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnistgen.errors import UsageError
from mnistgen.training.distributed import Share


class Part(NamedTuple):
    """Consecutive images of a dataset, of which every batch holds as many."""

    images: int
    batch: int


def checked_parts(parts: Sequence[Part], n: int, batch: int, share: "Share") -> Sequence[Part]:
    """The parts, or a `UsageError` where they do not make up the images and the batch."""
    images, rows = (sum(sizes) for sizes in zip(*parts, strict=True))
    if images != n or rows != batch or min(part.batch for part in parts) < 1:
        raise UsageError(
            f"The parts have {images} images and {rows} in a batch, and there are {n} images in batches of {batch}; "
            "each part needs at least one image of a batch."
        )
    if share.size > 1:
        raise UsageError("A batch of several parts is trained on by one process; start it without torchrun.")
    return parts


class Order:
    """Batches as consecutive pieces of one endless row of shuffled epochs: always full, every image in turn."""

    def __init__(self, n: int, seed: int, batch: int, part: int = 0) -> None:
        if n == 0:
            raise UsageError("There are no images to train on.")
        self.n, self.batch_size = n, batch
        self._seed = (seed, part) if part else (seed,)  # the first part's order is that of a run without parts
        self._epochs: dict[int, Tensor] = {}

    def batch(self, step: int) -> Tensor:
        """Indices of the images of `step` (from 0), (batch,) int64."""
        start, end = step * self.batch_size, (step + 1) * self.batch_size
        pieces = []
        for epoch in range(start // self.n, (end - 1) // self.n + 1):
            offset = epoch * self.n
            pieces.append(self._epoch(epoch)[max(0, start - offset) : min(self.n, end - offset)])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            for old in [key for key in self._epochs if key < epoch - 1]:
                del self._epochs[old]
            order = np.random.default_rng((*self._seed, epoch)).permutation(self.n)
            self._epochs[epoch] = torch.from_numpy(order)
        return self._epochs[epoch]


class Mixture:
    """Batches of several parts, each of which goes through its own images in turn."""

    def __init__(self, parts: Sequence[Part], seed: int) -> None:
        self._orders = [Order(n, seed, batch, number) for number, (n, batch) in enumerate(parts)]
        self._first = [0, *accumulate(n for n, _ in parts)]

    def batch(self, step: int) -> Tensor:
        """Indices of the images of `step` (from 0), part by part, (batch,) int64."""
        return torch.cat([order.batch(step) + first for order, first in zip(self._orders, self._first, strict=False)])
