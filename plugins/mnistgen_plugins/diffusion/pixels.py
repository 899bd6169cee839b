"""Spaces of pixels that are easier to follow to their end than [-1, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mnistgen.nn import calibrated_edges

LEVELS = 256
# A stroke is many pixels that go together, so that its shape is decided where the noise is several times as large.
# More of the straight path is there with 0.5 than with 1.
PIXEL_STD = 0.5
BLACK, FIRST_INK = -1.0, -0.75  # of the ranked space: black, and the edge between it and all other levels


class PixelSpace(nn.Module):
    """A number for each grey level, rising with it, and back: the level whose bin a number falls into.

    `plain`: n / 127.5 - 1, and bins of equal width. A model is never exact, so that in place of the 81 % of MNIST's
    pixels that are exactly 0 come 0, 1, 2, ... `ranked`: black is at -1 with a wide bin of its own, and ink fills the
    rest up to 1 by its rank among the training images' ink, so that a level that is frequent there has a wide bin.
    What comes back then has the right frequencies wherever the model's numbers do, and is a grey level exactly.

    The space is then centred and scaled to mean 0 and standard deviation 0.5 (`PIXEL_STD`). `prepare` learns all
    this from training images; before, both are that of [-1, 1].
    """

    values: Tensor
    edges: Tensor
    log_frequency: Tensor

    def __init__(self, *, ranked: bool) -> None:
        super().__init__()
        self.ranked = ranked
        values = torch.arange(LEVELS) / 127.5 - 1
        self.register_buffer("values", values)  # (256,), the number of each level
        self.register_buffer("edges", (values[1:] + values[:-1]) / 2)  # (255,), between the levels' bins
        self.register_buffer("log_frequency", torch.full((LEVELS,), -math.log(LEVELS)))  # (256,), of each level

    def prepare(self, images: Tensor) -> None:
        """Learn the space from training images, (n, 1, 28, 28) uint8."""
        counts = torch.bincount(images.flatten().long(), minlength=LEVELS).double()
        values = torch.arange(LEVELS, dtype=torch.float64) / 127.5 - 1
        edges = (values[1:] + values[:-1]) / 2
        if self.ranked:
            ink = (counts[1:] + 1) / (counts[1:] + 1).sum()  # no level is impossible
            above = FIRST_INK + (1 - FIRST_INK) * ink.cumsum(0)
            edges = torch.cat([above.new_tensor([FIRST_INK]), above[:-1]])
            values = torch.cat([above.new_tensor([BLACK]), above - (1 - FIRST_INK) * ink / 2])
        mean = (counts * values).sum() / counts.sum()
        scale = PIXEL_STD / ((counts * (values - mean).square()).sum() / counts.sum()).sqrt().clamp_min(1e-3)
        self.values.copy_((values - mean) * scale)
        self.edges.copy_((edges - mean) * scale)
        self.log_frequency.copy_(((counts + 1) / (counts + 1).sum()).log())

    def calibrate(self, u: Tensor, images: Tensor) -> None:
        """Move the edges to where each level has the share of pixels among a model's numbers u that it has in images.

        u, any shape, are of many samples, and images the training images, (n, 1, 28, 28) uint8.
        """
        self.edges.copy_(calibrated_edges(u, images))

    def encode(self, x: Tensor) -> Tensor:
        """[-1, 1] -> numbers of the space, any shape."""
        return self.values[((x + 1) * 127.5).round().clamp(0, LEVELS - 1).long()]

    def decode(self, u: Tensor) -> Tensor:
        """Numbers of the space -> the grey levels n / 127.5 - 1, any shape."""
        return torch.bucketize(u.contiguous(), self.edges, right=True) / 127.5 - 1

    def log_prob(self, x: Tensor, u: Tensor, sigma: float) -> Tensor:
        """log P(level | u) where u is the level's number with noise of standard deviation `sigma`, any shape.

        By Bayes' rule and the frequencies of the training images, each pixel on its own; x in [-1, 1].
        """
        logits = self.log_frequency - 0.5 * ((u[..., None] - self.values) / sigma).square()
        levels = ((x + 1) * 127.5).round().clamp(0, LEVELS - 1).long()
        return logits.log_softmax(-1).gather(-1, levels[..., None])[..., 0]
