"""An image to a vector and back: the networks of the models with a code of a few numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mnistgen.nn.blocks import ResidualBlock

CODE_DIM = 128  # of the vector, made of z and the class, that steers the decoder


class ImageEncoder(nn.Module):
    """Mean and log standard deviation of q(z | x, y): two strided convolutions and a linear layer.

    The decoder gets most of the time: a residual block at each size made a step a third longer and, in the same
    time, the samples no better.
    """

    def __init__(self, latent_dim: int, width: int, class_dim: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),  # (b, width, 14, 14)
            nn.SiLU(),
            nn.Conv2d(width, 3 * width, 4, stride=2, padding=1),  # (b, 3 width, 7, 7)
            nn.SiLU(),
            nn.Conv2d(3 * width, 32, 1),  # (b, 32, 7, 7)
            nn.SiLU(),
        )
        self.out = nn.Linear(32 * 7 * 7 + class_dim, 2 * latent_dim)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 1, 28, 28), (b, class) -> (b, latent_dim) float32 each."""
        h = rearrange(self.convs(x), "b c h w -> b (c h w)")
        mean, log_std = self.out(torch.cat([h, e], dim=1)).float().chunk(2, dim=1)
        return mean, log_std.clamp(-7, 2)


class Upsampler(nn.Module):
    """A network from a 7x7 map to the parameters of 28x28 pixels: blocks that an embedding steers, and pixel shuffles.

    A subclass makes its own layers, calls `build` for these, and in its `forward` ends with `grow`.
    """

    def build(self, width: int, blocks: int, channels: int, embedding_dim: int) -> None:
        """`blocks` residual blocks at each of 7x7 (3 `width` channels) and 14x14 (`width` channels)."""
        self.blocks7 = nn.ModuleList(ResidualBlock(3 * width, embedding_dim) for _ in range(blocks))
        self.to14 = nn.Conv2d(3 * width, 4 * width, 1)
        self.blocks14 = nn.ModuleList(ResidualBlock(width, embedding_dim) for _ in range(blocks))
        self.to28 = nn.Conv2d(width, 4 * 16, 3, padding=1)
        self.out = nn.Conv2d(16, channels, 3, padding=1)

    def grow(self, h: Tensor, e: Tensor) -> Tensor:
        """(b, 3 width, 7, 7), (b, embedding_dim) -> (b, channels, 28, 28)."""
        for block in self.blocks7:
            h = block(h, e)
        h = F.pixel_shuffle(self.to14(F.silu(h)), 2)  # (b, width, 14, 14)
        for block in self.blocks14:
            h = block(h, e)
        h = F.pixel_shuffle(self.to28(F.silu(h)), 2)  # (b, 16, 28, 28)
        parameters: Tensor = self.out(F.silu(h))
        return parameters


class ImageDecoder(Upsampler):
    """The parameters of p(x | z, y): z and y make one vector, which seeds the 7x7 map and steers every block."""

    def __init__(self, latent_dim: int, width: int, blocks: int, channels: int, class_dim: int) -> None:
        super().__init__()
        self.code = nn.Sequential(
            nn.Linear(latent_dim + class_dim, CODE_DIM), nn.SiLU(), nn.Linear(CODE_DIM, CODE_DIM), nn.SiLU()
        )
        self.seed = nn.Linear(CODE_DIM, 32 * 7 * 7)
        self.expand = nn.Conv2d(32, 3 * width, 1)
        self.build(width, blocks, channels, CODE_DIM)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """(b, latent_dim), (b, class) -> (b, channels, 28, 28)."""
        code = self.code(torch.cat([z, e], dim=1))
        h = rearrange(self.seed(code), "b (c h w) -> b c h w", h=7, w=7)
        return self.grow(self.expand(F.silu(h.contiguous(memory_format=torch.channels_last))), code)
