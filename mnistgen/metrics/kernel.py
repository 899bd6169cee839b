"""The kernel distance of two sets of features.

KID (Binkowski et al. 2018, https://arxiv.org/abs/1801.01401) is the squared maximum mean discrepancy for the kernel
k(x, y) = (x.y / d + 1)^3, estimated without bias: the mean is 0 for two samples of one distribution, whatever n.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnistgen.errors import UsageError
from mnistgen.metrics.features import check_pair

SUBSET = 1000  # images a side
SUBSETS = 100


class KernelDistance(NamedTuple):
    """KID over random subsets; it can be a little below 0."""

    mean: float
    spread: float  # standard deviation over the subsets


def kid(
    samples: Tensor, reference: Tensor, *, subsets: int = SUBSETS, subset_size: int = SUBSET, seed: int = 0
) -> KernelDistance:
    """KID of (n, d), (m, d), at least `subset_size` images a side. Subsets are drawn by `seed`, without repetition
    within one, and are those that torch-fidelity draws. Products are in float32, sums in float64.
    """
    if subsets < 1 or subset_size < 2:
        raise UsageError(f"KID: {subsets} subsets of {subset_size} images; it needs at least 1 of 2.")
    samples, reference = check_pair(samples, reference, metric="KID", least=subset_size)
    samples, reference = samples.float(), reference.float()
    if len(samples) == len(reference) == subset_size:  # every subset is the whole
        return KernelDistance(_mmd2(samples, reference), 0.0)
    generator = np.random.RandomState(seed % 2**32)
    values = np.empty(subsets)
    for i in range(subsets):
        x, y = (z[torch.from_numpy(generator.choice(len(z), subset_size, replace=False))] for z in (samples, reference))
        values[i] = _mmd2(x, y)
    return KernelDistance(float(values.mean()), float(values.std()))


def _mmd2(x: Tensor, y: Tensor) -> float:
    """mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j): (m, d), (m, d)."""
    m = len(x)
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)  # (m, m)
    within = sum(k.sum(dtype=torch.float64) - k.diagonal().sum(dtype=torch.float64) for k in (xx, yy))
    return float(within / (m * (m - 1)) - 2 * xy.sum(dtype=torch.float64) / m**2)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    k = (x @ y.T).div_(x.shape[1]).add_(1)
    return k * k * k
