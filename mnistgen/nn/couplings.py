"""Invertible layers whose Jacobian's determinant is known, as normalizing flows need them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class AffineCoupling(nn.Module):
    """z = m x + (1 - m) (x e^s + t), where s and t are functions of m x alone (Dinh et al. 2017, Real NVP).

    log |det dz/dx| = sum (1 - m) s. The network gets m x and whatever condition is given, and returns raw s and t one
    after the other in dimension 1; s is held in (-limit, limit) by limit tanh(raw / limit).
    """

    mask: Tensor

    def __init__(self, network: nn.Module, mask: Tensor, limit: float = 2.0) -> None:
        """`mask`: 1 where x passes through as it is, 0 where it is changed; it broadcasts to x, as (1, h, w) does."""
        super().__init__()
        self.network, self.limit = network, limit
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor]:
        """z and log |det dz/dx|: (b, c, ...) -> (b, c, ...), (b,)."""
        s, t = self._scale_and_shift(x, condition)
        return x * s.exp() + t, s.flatten(1).sum(1)

    def inverse(self, z: Tensor, *condition: Tensor) -> Tensor:
        """The x of which z is made."""
        s, t = self._scale_and_shift(z, condition)
        return (z - t) * (-s).exp()

    def _scale_and_shift(self, x: Tensor, condition: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):  # or the two directions differ by a rounding
            raw, t = self.network(x * self.mask, *condition).chunk(2, dim=1)
            s = self.limit * torch.tanh(raw / self.limit)
            changed = 1 - self.mask
            return changed * s, changed * t


class FlowSequence(nn.ModuleList):
    """z = f_k(... f_1(x)), of layers that have `forward` and `inverse` as `AffineCoupling` has them."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__(layers)

    def forward(self, x: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor]:
        """z and log |det dz/dx|: (b, ...) -> (b, ...), (b,). log p(x) = log_normal(z) + log |det dz/dx|."""
        log_det = x.new_zeros(x.shape[0])
        for layer in self:
            x, change = layer(x, *condition)
            log_det = log_det + change
        return x, log_det

    def inverse(self, z: Tensor, *condition: Tensor) -> Tensor:
        """The x of which z is made."""
        for layer in reversed(self):
            z = layer.inverse(z, *condition)  # type: ignore[operator]
        return z


def checkerboard(height: int = 28, width: int = 28, *, odd: bool = False) -> Tensor:
    """1 on the pixels of one colour of a checkerboard and 0 on the others, (1, height, width)."""
    return ((torch.arange(height)[:, None] + torch.arange(width) + odd) % 2 == 0).float()[None]


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I), (b, ...) -> (b,)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)
