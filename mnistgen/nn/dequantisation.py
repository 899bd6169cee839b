"""Grey levels as numbers of a continuum and back, with what that does to a density.

A level n = 0..255 becomes v = (n + u) / 256 with u ~ U[0, 1). For a density p of v,

    log P(n) = log integral p((n + u) / 256) du / 256 >= E_u log p(v) - log 256,

by Jensen's inequality (Theis et al. 2016), so that the mean of `log p(v) + correction` bounds the log-probability of an
8-bit image from below, and its log of the mean of exponentials over several draws of u tightens that.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mnistgen.model import Noise

LEVELS = 256


def dequantise(x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
    """v in [0, 1) of images x in [-1, 1], and -log 256 for each pixel: (b, ...) -> (b, ...), (b,).

    u comes from `noise`, or from torch's generator.
    """
    u = torch.rand_like(x) if noise is None else noise.uniform(*x.shape[1:]).to(x)
    n = ((x + 1) * 127.5).round()
    return (n + u) / LEVELS, x.new_full((len(x),), -math.log(LEVELS) * x[0].numel() if len(x) else 0.0)


def quantise(v: Tensor) -> Tensor:
    """The image in [-1, 1] of the levels into which v falls, the inverse of `dequantise`, any shape."""
    return (v * LEVELS).floor().clamp(0, LEVELS - 1) / 127.5 - 1


def to_logits(v: Tensor, alpha: float = 0.05) -> tuple[Tensor, Tensor]:
    """h = logit(alpha + (1 - 2 alpha) v), which has no bounds, and log |det dh/dv| (Dinh et al. 2017, section 4.1).

    (b, ...) in [0, 1] -> (b, ...), (b,).
    """
    h = torch.logit(alpha + (1 - 2 * alpha) * v)
    # dh/dv = (1 - 2 alpha) / (p (1 - p)) with p = sigmoid(h)
    log_det = math.log(1 - 2 * alpha) + F.softplus(h) + F.softplus(-h)
    return h, log_det.flatten(1).sum(1)


def from_logits(h: Tensor, alpha: float = 0.05) -> Tensor:
    """The v of `to_logits`, any shape."""
    return (h.sigmoid() - alpha) / (1 - 2 * alpha)
