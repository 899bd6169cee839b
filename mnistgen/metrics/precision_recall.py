"""Fidelity and diversity by the balls around points: B_k(x) reaches from x to its k-th nearest neighbour in x's set.

Two samples of one distribution do not score 1: the balls leave gaps. Only the scale of real against real says
what is good, and only at the same n.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mnistgen.metrics.features import check_pair
from mnistgen.metrics.neighbours import CHUNK, radii

PRECISION_K = 3
DENSITY_K = 5
SLACK = 1e-9  # relative; a point on the edge of a ball is inside, whatever the rounding


class PRDC(NamedTuple):
    """All are 0 at worst; density alone can be above 1."""

    precision: float  # share of samples in a ball of a real image
    recall: float  # share of real images in a ball of a sample
    density: float  # balls of real images around a sample, over k
    coverage: float  # share of real images whose ball holds a sample


def prdc(samples: Tensor, reference: Tensor, *, k: int = PRECISION_K, density_k: int = DENSITY_K) -> PRDC:
    """All four scores from one set of distances: (n, d), (m, d), more than `k` and `density_k` images a side.

    Precision and recall after Kynkaanniemi et al. 2019 (https://arxiv.org/abs/1904.06991), density and coverage
    after Naeem et al. 2020 (https://arxiv.org/abs/2002.09797). Distances are in float64; a chunk at a time is held.
    """
    samples, reference = check_pair(samples, reference, metric="Precision and recall", least=max(k, density_k) + 1)
    around_samples = _squared(radii(samples, k)[:, -1])  # (n,)
    real = radii(reference, max(k, density_k))
    around_real, around_real_density = _squared(real[:, k - 1]), _squared(real[:, density_k - 1])  # (m,)

    x, y = samples.double(), reference.double()
    centre = y.mean(0)
    x, y = x - centre, y - centre
    squares = y.square().sum(1)
    precise, dense = 0, 0
    recalled = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    covered = torch.zeros_like(recalled)
    for rows in torch.arange(len(x), device=x.device).split(max(1, CHUNK // len(y))):
        distances = torch.addmm(squares, x[rows], y.T, alpha=-2).add_(x[rows].square().sum(1, keepdim=True))  # (b, m)
        precise += int((distances <= around_real).any(1).sum())
        recalled |= (distances <= around_samples[rows, None]).any(0)
        inside = distances <= around_real_density
        dense += int(inside.count_nonzero())
        covered |= inside.any(0)
    return PRDC(
        precision=precise / len(x),
        recall=float(recalled.double().mean()),
        density=dense / (density_k * len(x)),
        coverage=float(covered.double().mean()),
    )


def _squared(radius: Tensor) -> Tensor:
    return radius.square() * (1 + SLACK)
