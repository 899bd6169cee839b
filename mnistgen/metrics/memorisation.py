"""Are samples copies of training images? Distances to the nearest one, beside those of real held-out images.

In pixels (`pixels`) or in any features; every number needs real held-out images beside it, because how close
a new image comes depends on the training set's size and on the space.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnistgen.errors import UsageError
from mnistgen.metrics.features import check_labels, check_pair
from mnistgen.metrics.neighbours import Neighbours, nearest

CELL_LEAST = 20  # images a side that a class needs to take part in the C_T test, as in the paper
QUANTILES = (0.01, 0.1, 0.5, 0.9)


class CopyingTest(NamedTuple):
    """C_T: about 0 where samples are as far from the training set as real images are, far below 0 where closer: copies,
    or images so smooth that they lie between many, as those of a VAE do."""

    statistic: float  # samples against held-out images, mean over the splits
    control: float  # held-out images against held-out images, at the same counts
    control_spread: float  # standard deviation of the control over the splits: the unit of what is far


@dataclass(frozen=True, eq=False)
class Memorisation:
    """Distances of samples to the training set, beside those of real held-out images."""

    nearest: Neighbours  # of the samples, (n, 1)
    held_out_nearest: Neighbours  # (m, 1)
    authentic: Tensor  # (n,) bool
    held_out_authentic: Tensor  # (m,) bool
    closer: float  # P(a sample is closer to the training set than a held-out image): 0.5 if alike, 1 if all are copies
    copying: CopyingTest

    @property
    def authentic_share(self) -> float:
        return float(self.authentic.double().mean())

    @property
    def held_out_authentic_share(self) -> float:
        """The target: about 0.63 for MNIST's test images and 10,000 training images."""
        return float(self.held_out_authentic.double().mean())

    @property
    def closest(self) -> Tensor:
        """Indices of the samples, that nearest to a training image first, (n,) int64."""
        return self.nearest.distances[:, 0].argsort(stable=True)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        both = {"samples": self.nearest.distances, "held_out": self.held_out_nearest.distances}
        levels = torch.tensor(QUANTILES, dtype=torch.float64)
        return {
            "authentic": self.authentic_share,
            "held_out_authentic": self.held_out_authentic_share,
            "closer": self.closer,
            "copying": self.copying._asdict(),
            "distance_quantiles": {
                name: dict(zip(map(str, QUANTILES), distances.cpu().flatten().quantile(levels).tolist(), strict=True))
                for name, distances in both.items()
            },
        }


def memorisation(
    samples: Tensor,
    sample_labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    training: Tensor,
    *,
    seed: int = 0,
) -> Memorisation:
    """All of this module: (n, d), (n,), (m, d), (m,), (t, d), labels int64; 40 images of one class a side at least.

    `training` is what the model was trained on, or a part of it, and `held_out` what it never saw.
    """
    names = ("samples", "training images")
    samples, training = check_pair(samples, training, metric="Memorisation", least=2, names=names)
    held_out, _ = check_pair(held_out, training, metric="Memorisation", least=2, names=("held-out images", names[1]))
    ours, real = nearest(samples, training), nearest(held_out.to(samples.device), training)
    distances, real_distances = ours.distances[:, 0].cpu(), real.distances[:, 0].cpu()
    together = Neighbours(*(torch.cat(pair) for pair in zip(ours, real, strict=True)))  # many share a nearest image
    ours_authentic, real_authentic = authentic(together, training).split([len(samples), len(held_out)])
    return Memorisation(
        nearest=ours,
        held_out_nearest=real,
        authentic=ours_authentic,
        held_out_authentic=real_authentic,
        closer=mann_whitney(real_distances, distances)[1],
        copying=copying_test(distances, sample_labels, real_distances, held_out_labels, seed=seed),
    )


def authentic(neighbours: Neighbours, training: Tensor) -> Tensor:
    """Tell which images are farther from their nearest training image than that is from its own nearest other one.

    (n,) bool; their share is AuthPct (Alaa et al. 2022, https://arxiv.org/abs/2102.08921). `neighbours` is what
    `nearest` says of the images and `training` (t, d), t >= 2.
    """
    closest, place = neighbours.indices[:, 0].unique(return_inverse=True)
    own = nearest(training[closest.to(training.device)], training, skip=closest.to(training.device))
    return neighbours.distances[:, 0] > own.distances[:, 0].to(place.device)[place]


def copying_test(
    distances: Tensor,
    labels: Tensor,
    held_out_distances: Tensor,
    held_out_labels: Tensor,
    *,
    splits: int = 10,
    seed: int = 0,
) -> CopyingTest:
    """The C_T test of distances to the nearest training image (n,), (m,) with labels (n,), (m,) int64.

    C_T (Meehan et al. 2020, https://arxiv.org/abs/2004.05675) = sum_c w_c Z_c, c the classes, w_c their shares of the
    held-out images and Z_c the Mann-Whitney Z of samples against held-out images. Here random stratified halves of the
    held-out images stand against a random stratified half of the samples, and, as a control, against each other: their
    order in a file is not random. Raises `UsageError` where no class has 40 images a side.
    """
    metric = "The C_T test"
    labels = check_labels(labels, len(distances), name="samples", metric=metric)
    held_out_labels = check_labels(held_out_labels, len(held_out_distances), name="held-out images", metric=metric)
    distances, held_out_distances = distances.cpu().double(), held_out_distances.cpu().double()
    generator = torch.Generator().manual_seed(seed)
    statistics, controls = [], []
    for _ in range(splits):
        ours, _ = stratified_halves(labels, generator)
        first, second = stratified_halves(held_out_labels, generator)
        real, real_labels = held_out_distances[first], held_out_labels[first]
        statistics.append(_ct(distances[ours], labels[ours], real, real_labels))
        controls.append(_ct(held_out_distances[second], held_out_labels[second], real, real_labels))
    control = torch.tensor(controls, dtype=torch.float64)
    return CopyingTest(sum(statistics) / splits, float(control.mean()), float(control.std(correction=0)))


def mann_whitney(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mann & Whitney's test of x (n,) against y (m,): its Z, corrected for ties, and P(x > y) + P(x = y) / 2.

    Z is standard normal where both are of one distribution, below 0 where x is the smaller; 0 where all are equal.
    """
    n, m = len(x), len(y)
    if n == 0 or m == 0:
        raise UsageError(f"The Mann-Whitney test needs values on both sides, not {n} and {m}.")
    _, place, counts = torch.cat([x, y]).unique(return_inverse=True, return_counts=True)
    counts = counts.double()
    rank = counts.cumsum(0) - (counts - 1) / 2  # the mean rank of equal values
    u = float(rank[place[:n]].sum()) - n * (n + 1) / 2
    total = n + m
    ties = float((counts**3 - counts).sum()) / (total * max(total - 1, 1))
    deviation = (n * m / 12 * max(total + 1 - ties, 0.0)) ** 0.5
    return (u - n * m / 2) / deviation if deviation > 1e-9 else 0.0, u / (n * m)


def stratified_halves(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of two random halves with the same number of each class, an odd one left out: (n,) -> (h,), (h,)."""
    order = torch.randperm(len(labels), generator=generator)
    first, second = [], []
    for label in labels.unique():
        members = order[labels[order] == label]
        half = len(members) // 2
        first.append(members[:half])
        second.append(members[half : 2 * half])
    return torch.cat(first), torch.cat(second)


def _ct(x: Tensor, x_labels: Tensor, y: Tensor, y_labels: Tensor) -> float:
    """sum_c w_c Z_c over the classes with enough images on both sides."""
    score, weight = 0.0, 0
    for label in y_labels.unique():
        ours, real = x[x_labels == label], y[y_labels == label]
        if min(len(ours), len(real)) >= CELL_LEAST:
            score += len(real) * mann_whitney(ours, real)[0]
            weight += len(real)
    if not weight:
        raise UsageError(f"The C_T test: no class has {2 * CELL_LEAST} samples and {2 * CELL_LEAST} held-out images.")
    return score / weight
