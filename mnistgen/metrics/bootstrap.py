"""Uncertainty of a Frechet distance: a stratified bootstrap (Efron 1979) over groups of images.

Images of a class are dealt into groups, and it is groups that are drawn again, within their class: sums over a group
are all that a replicate takes of the features, so a replicate costs one Frechet distance whatever n, and what was drawn
by class is drawn again by class.

Replicates are of sets in which images occur twice. So they lie above the distance, by about its bias of c/n once more,
and where both sets are of one distribution, so that the distance is all noise, they spread more than it does. The
latter is put right by replicates of a null distance, that of two sets which are both drawn again from the reference:
the variance is that of the replicates less twice that of the null replicates, and at least that of those. For a
distance |D + e|^2 of a difference D and noise e, of sets like the reference, that is right in the mean; far from the
reference it changes next to nothing. An interval is the distance +- 1.96 standard errors; the distance keeps its bias,
as its floor does.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mnistgen.metrics.features import check_features, check_labels

GROUPS = 200  # the standard error is known to 5%
REPLICATES = 200  # and to 5%
Z = 1.959964  # of 95%


@dataclass(frozen=True, eq=False)
class GroupSums:
    """The sums that replicates need of a set of features, in float64 on the CPU; features are taken from their mean."""

    mean: Tensor  # (d,), of all
    strata: tuple[int, ...]  # groups of each class, in order
    counts: Tensor  # (g,)
    sums: Tensor  # (g, d)
    squares: Tensor  # (g, d, d)


@dataclass(frozen=True, eq=False)
class Replicates:
    """Distances of sets that were drawn again, and what of their variance is the null distance's."""

    values: Tensor  # (r,) float64
    null_variance: float

    @property
    def standard_error(self) -> float:
        return math.sqrt(max(float(self.values.var()) - 2 * self.null_variance, self.null_variance))

    def interval(self, value: float) -> tuple[float, float]:
        """The 95% interval of the distance, which is `value`."""
        return value - Z * self.standard_error, value + Z * self.standard_error

    def __mul__(self, factor: float) -> "Replicates":
        return Replicates(factor * self.values, factor**2 * self.null_variance)

    def __sub__(self, other: "Replicates") -> "Replicates":
        """Of the difference of two distances to one reference: three quarters of the null variances, for noise of the
        reference that both share."""
        return Replicates(self.values - other.values, 0.75 * (self.null_variance + other.null_variance))


def group_sums(features: Tensor, labels: Tensor | None = None, *, groups: int = GROUPS, seed: int = 0) -> GroupSums:
    """Deal (n, d) into groups, at random by `seed`, each of one of the classes (n,) int64 where there are labels."""
    x = check_features(features, name="images", metric="The bootstrap", least=2).cpu().double()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    strata = [order]
    if labels is not None:
        labels = check_labels(labels, len(x), name="images", metric="The bootstrap")
        strata = [order[labels[order] == label] for label in labels.unique()]
    each = max(1, groups // len(strata))
    mean = x.mean(0)
    dealt = [
        [x[places[i :: min(each, len(places))]] - mean for i in range(min(each, len(places)))] for places in strata
    ]
    parts = [part for stratum in dealt for part in stratum]
    return GroupSums(
        mean,
        tuple(len(stratum) for stratum in dealt),
        torch.tensor([len(part) for part in parts], dtype=torch.float64),
        torch.stack([part.sum(0) for part in parts]),
        torch.stack([part.T @ part for part in parts]),
    )


def replicate_fid(
    samples: GroupSums, reference: GroupSums, *, replicates: int = REPLICATES, seed: int = 0
) -> Replicates:
    """FID of sets that are drawn again from both sides.

    The reference is drawn again alike for whatever stands against it, so that differences of replicates are those of
    two sets against one reference.
    """
    real, null_variance, state = _redrawn(reference, replicates, seed)
    generator = torch.Generator()
    generator.set_state(state)
    return Replicates(_distances(_draw_again(samples, replicates, generator), real), null_variance)


class Redrawn(NamedTuple):
    """What distances from a reference that is drawn again need of it."""

    mean: Tensor  # (r, d)
    root: Tensor  # (r, d, d), of the covariance
    trace: Tensor  # (r,)


@lru_cache(maxsize=2)  # evaluators A and B: most scores stand against one reference, and it is two thirds of the work
def _redrawn(reference: GroupSums, replicates: int, seed: int) -> tuple[Redrawn, float, Tensor]:
    """A reference drawn again, the variance of its null distance, and the state of the generator afterwards."""
    generator = torch.Generator().manual_seed(seed)
    (mean, covariance), again = (_draw_again(reference, replicates, generator) for _ in range(2))
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt()[:, None, :] @ vectors.mT
    real = Redrawn(mean, root, covariance.diagonal(dim1=1, dim2=2).sum(1))
    return real, float(_distances(again, real).var()), generator.get_state()


def _distances(ours: tuple[Tensor, Tensor], real: Redrawn) -> Tensor:
    """FID of means (r, d) and covariances (r, d, d), one by one, (r,)."""
    mean, covariance = ours
    common = torch.linalg.eigvalsh(real.root @ covariance @ real.root).clamp(min=0).sqrt().sum(1)
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    distances: Tensor = (mean - real.mean).square().sum(1) + trace + real.trace - 2 * common
    return distances


def _draw_again(sums: GroupSums, replicates: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Means (r, d) and covariances (r, d, d) of as many groups as there are, drawn within their class, of which each
    keeps its share of the images."""
    weights, start = [], 0
    for groups in sums.strata:
        counts = sums.counts[start : start + groups]
        times = torch.zeros(replicates, groups, dtype=torch.float64)
        places = torch.randint(groups, (replicates, groups), generator=generator)
        times.scatter_add_(1, places, torch.ones_like(times))
        weights.append(times * (counts.sum() / (times @ counts))[:, None])
        start += groups
    w, n = torch.cat(weights, 1), sums.counts.sum()
    centre = w @ sums.sums / n
    squares = (w @ sums.squares.flatten(1)).view(replicates, *sums.squares.shape[1:])
    return sums.mean + centre, (squares - n * centre[:, :, None] * centre[:, None, :]) / (n - 1)
