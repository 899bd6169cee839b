"""Layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassEmbedding(nn.Module):
    """A vector for each class, or for a mixture of classes: y -> E y."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.randn(num_classes, dim))

    def forward(self, y: Tensor) -> Tensor:
        """(b,) int64 labels, or (b, num_classes) float weights that sum to one -> (b, dim)."""
        if y.is_floating_point():
            return y.to(self.weight.dtype) @ self.weight
        return F.embedding(y, self.weight)


class ResidualBlock(nn.Module):
    """x + conv(silu((1 + scale(e)) * conv(silu(x)) + shift(e))): two 3x3 convolutions that an embedding steers.

    The last convolution and the modulation begin at zero, so that a block begins as the identity; without
    normalisation a step takes a sixth less time on a CPU than with GroupNorm (64 channels at 14x14, 128 at 7x7).
    """

    def __init__(self, channels: int, embedding_dim: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(embedding_dim, 2 * channels) if embedding_dim else None
        for layer in (self.conv2, self.film):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """(b, channels, h, w), (b, embedding_dim) -> (b, channels, h, w)."""
        h = self.conv1(F.silu(x))
        if self.film is not None:
            scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)  # (b, c, 1, 1) each
            h = h * (1 + scale) + shift
        out: Tensor = x + self.conv2(F.silu(h))
        return out
