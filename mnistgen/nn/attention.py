"""Causal self-attention: each place of a sequence sees itself and those before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class KeyValueCache:
    """The keys and values of the places so far, of one attention layer, so that each is computed once.

    A sampler makes one for each layer and feeds the sequence in pieces, most often a place at a time.
    """

    def __init__(self, length: int) -> None:
        """`length`: the most places there will be."""
        self.length, self.places = length, 0
        self._k, self._v = torch.empty(0), torch.empty(0)

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take in those of the next places, (b, heads, n, d) each; returns those of all places so far."""
        if not self.places:
            shape = (*k.shape[:2], self.length, k.shape[3])
            self._k, self._v = k.new_empty(shape), v.new_empty(shape)
        start, self.places = self.places, self.places + k.shape[2]
        self._k[:, :, start : self.places], self._v[:, :, start : self.places] = k, v
        return self._k[:, :, : self.places], self._v[:, :, : self.places]


class CausalAttention(nn.Module):
    """softmax(q k' / sqrt(d) + mask) v in several heads, the mask -inf for what comes later (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """(b, n, width) -> the same; with a cache, x are the n places that follow those in it."""
        q, k, v = rearrange(self.qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        if cache is None or cache.places == 0:
            if cache is not None:
                cache.extend(k, v)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            k, v = cache.extend(k, v)
            now, then = k.shape[2], torch.arange(k.shape[2], device=x.device)
            mask = then <= then[now - q.shape[2] :, None]  # (n, places so far)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=None if q.shape[2] == 1 else mask)
        out: Tensor = self.out(rearrange(attended, "b heads n d -> b n (heads d)"))
        return out


class CausalBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): a layer of a decoder-only transformer with pre-normalisation.

    Both branches end in a projection that begins at zero, so that a block begins as the identity.
    """

    def __init__(self, width: int, heads: int, expansion: int = 4) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))
        for layer in (self.attention.out, self.mlp[-1]):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """(b, n, width) -> the same; for the cache, see `CausalAttention`."""
        x = x + self.attention(self.norm1(x), cache)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
