"""Grey levels as bins of the numbers that a network gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LEVELS = 256


class GreyLevels(nn.Module):
    """The grey level of a number in [-1, 1]: that of the bin it falls into.

    The bins have equal width, as rounding has them, until `calibrate` gives each level the share of pixels that it has
    in the training images. A network that makes grey of what is black or white, in every image, no longer does.
    """

    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", (torch.arange(LEVELS - 1) + 0.5) / 127.5 - 1)  # (255,), between the levels' bins
        self.register_load_state_dict_pre_hook(_keep_edges)  # type: ignore[no-untyped-call]

    def decode(self, x: Tensor) -> Tensor:
        """Numbers in [-1, 1] -> the grey levels n / 127.5 - 1, any shape."""
        return torch.bucketize(x.contiguous(), self.edges, right=True) / 127.5 - 1

    def calibrate(self, x: Tensor, images: Tensor) -> None:
        """Move the edges: the numbers x of many samples, any shape, and training images, (n, 1, 28, 28) uint8."""
        self.edges.copy_(calibrated_edges(x, images))


def calibrated_edges(numbers: Tensor, images: Tensor) -> Tensor:
    """Edges, (255,), between which as many of the numbers lie as pixels of the images, uint8, have each level.

    This is optimal transport in one dimension. Equal numbers are of one level: of the lowest that any is to have.
    """
    counts = torch.bincount(images.flatten().long(), minlength=LEVELS).double()
    below = (counts.cumsum(0) / counts.sum())[:-1]  # (255,), the share of pixels under each edge
    ordered = numbers.flatten().sort().values
    last = (below * len(ordered)).ceil().long().clamp(1, len(ordered)) - 1  # the largest number under each edge
    return torch.nextafter(ordered[last], ordered.new_tensor(torch.inf))


def _keep_edges(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Leave the edges as they are where a file has none: it is of a time before there were any."""
    state.setdefault(f"{prefix}edges", module.edges)
