"""A small U-Net of images, times and classes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mnistgen.nn.blocks import ClassEmbedding

FREQUENCIES = 32  # of the time embedding


class UNet(nn.Module):
    """f(x_t, c, y) over patches of 2x2 pixels: 14x14 and 7x7, with attention at 7x7.

    At 28x28 a convolution costs four times one at 14x14, and a pixel's next neighbours are in its patch or beside it.
    """

    def __init__(
        self, num_classes: int, width: int = 64, blocks: int = 2, *, inputs: int = 1, outputs: int = 1, times: int = 1
    ) -> None:
        super().__init__()
        deep, dim = 2 * width, 4 * width
        self.embed = Embedding(num_classes, dim, times)
        self.into = nn.Conv2d(4 * inputs, width, 3, padding=1)
        self.down14 = nn.ModuleList(Block(width, width, dim) for _ in range(blocks))
        self.to7 = nn.Conv2d(4 * width, deep, 1)
        self.down7 = nn.ModuleList(Block(deep, deep, dim) for _ in range(blocks))
        self.attention = Attention(deep)
        self.up7 = nn.ModuleList(Block(2 * deep, deep, dim) for _ in range(blocks))
        self.to14 = nn.Conv2d(deep, 4 * width, 1)
        self.up14 = nn.ModuleList(Block(2 * width, width, dim) for _ in range(blocks))
        self.norm = group_norm(width)
        self.out = nn.Conv2d(width, 4 * outputs, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def hidden(self) -> list[nn.Parameter]:
        """The weights of the layers between the first and the last."""
        ends = {id(self.into.weight), id(self.out.weight)}
        weights = (layer.weight for layer in self.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
        return [weight for weight in weights if isinstance(weight, nn.Parameter) and id(weight) not in ends]

    def forward(self, x: Tensor, c: Tensor, y: Tensor) -> Tensor:
        """(b, inputs, 28, 28), (b, times) in about [-1, 1], labels or class weights -> (b, outputs, 28, 28) float32."""
        e = self.embed(c, y)
        h = self.into(F.pixel_unshuffle(x, 2))  # (b, width, 14, 14)
        kept14, kept7 = [], []
        for block in self.down14:
            h = block(h, e)
            kept14.append(h)
        h = self.to7(F.pixel_unshuffle(h, 2))  # (b, 2 width, 7, 7)
        for block in self.down7:
            h = block(h, e)
            kept7.append(h)
        h = self.attention(h)
        for block in self.up7:
            h = block(torch.cat([h, kept7.pop()], 1), e)
        h = F.pixel_shuffle(self.to14(h), 2)
        for block in self.up14:
            h = block(torch.cat([h, kept14.pop()], 1), e)
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))).float(), 2)


class Embedding(nn.Module):
    """A vector for the times and the class: silu(W2 silu(W1 fourier(c) + E y))."""

    frequencies: Tensor

    def __init__(self, num_classes: int, dim: int, times: int) -> None:
        super().__init__()
        self.classes = ClassEmbedding(num_classes, dim)
        self.first = nn.Linear(2 * FREQUENCIES * times, dim)
        self.second = nn.Linear(dim, dim)
        self.register_buffer("frequencies", torch.logspace(0, 1.5, FREQUENCIES, 10.0), persistent=False)

    def forward(self, c: Tensor, y: Tensor) -> Tensor:
        """(b, times), labels or class weights -> (b, dim)."""
        with torch.autocast(c.device.type, enabled=False):  # labels and one-hot weights are to give the same
            angles = rearrange(c.float()[..., None] * self.frequencies, "b times f -> b (times f)")
            features, classes = torch.cat([angles.cos(), angles.sin()], 1), self.classes(y)
        h = F.silu(self.first(features) + classes)
        e: Tensor = F.silu(self.second(h))
        return e


class Block(nn.Module):
    """skip(x) + conv(silu(scale(e) norm(conv(silu(norm(x)))) + shift(e)))."""

    def __init__(self, inputs: int, channels: int, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(inputs), group_norm(channels)
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(dim, 2 * channels)
        self.skip = nn.Conv2d(inputs, channels, 1) if inputs != channels else nn.Identity()
        for layer in (self.conv2, self.film):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """(b, inputs, h, w), (b, dim) -> (b, channels, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(e)[:, :, None, None].chunk(2, 1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        out: Tensor = self.skip(x) + h
        return out


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation, 16 channels a group or more: with fewer, a CPU takes seven times as long in bfloat16."""
    return nn.GroupNorm(max(g for g in range(1, max(1, channels // 16) + 1) if channels % g == 0), channels)


class Attention(nn.Module):
    """x + W softmax(q k' / sqrt(d)) v over all places, with queries and keys of unit variance."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)
        self.places = nn.Parameter(0.02 * torch.randn(1, channels, 7, 7))
        nn.init.zeros_(self.project.weight)
        assert self.project.bias is not None
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, 7, 7) -> the same."""
        qkv = self.qkv(self.norm(x) + self.places)
        q, k, v = rearrange(qkv, "b (three heads d) h w -> three b heads (h w) d", three=3, heads=self.heads)
        q, k = (F.normalize(part.float(), dim=-1).to(v.dtype) * part.shape[-1] ** 0.5 for part in (q, k))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).float().softmax(-1).to(v.dtype)
        h = rearrange(weights @ v, "b heads (h w) d -> b (heads d) h w", h=x.shape[2])
        last = x.is_contiguous(memory_format=torch.channels_last)
        h = h.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        out: Tensor = x + self.project(h)
        return out
