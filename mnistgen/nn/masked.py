"""Convolutions in raster order: a pixel sees those above it, and those to its left."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedConv2d(nn.Conv2d):
    """A convolution whose weights for what comes later in raster order are zero (van den Oord et al. 2016, PixelRNN).

    Kind A leaves out the pixel itself, too, and is the first layer; kind B sees it, and is every later one. A stack of
    them does not see what is above and far to the right (the blind spot of van den Oord et al. 2016, PixelCNN).
    """

    mask: Tensor

    def __init__(
        self, kind: Literal["A", "B"], channels: int, out_channels: int, kernel_size: int = 3, *, bias: bool = True
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; it must be odd, so that there is a middle.")
        super().__init__(channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        order = torch.arange(kernel_size**2).view(kernel_size, kernel_size)
        middle = kernel_size**2 // 2
        mask = order < middle if kind == "A" else order <= middle
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) -> (b, out_channels, h, w)."""
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)
