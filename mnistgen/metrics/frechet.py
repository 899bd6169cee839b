"""The Frechet distance of two sets of features, as a whole, by class, and at infinite n.

FID (Heusel et al. 2017, https://arxiv.org/abs/1706.08500) is the squared 2-Wasserstein distance of the two Gaussians
with the sets' means and covariances: |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)). It is never below 0 but by
rounding, and its expectation falls as n grows: equal n or no comparison.
"""

import importlib
import math
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mnistgen.data import import_torchvision
from mnistgen.errors import DataError, UsageError
from mnistgen.metrics.features import check_features, check_labels, check_pair

INFINITY_LEAST = 1000  # images a side; the bias of fewer is not linear in 1/n
INFINITY_POINTS = 30  # twice the paper's: the seed then matters less than the images
INFINITY_RANGE = 3  # the smallest subset is n / 3; smaller ones leave the line


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of a set, all that the Frechet distance knows of it, in float64 on the CPU."""

    mean: Tensor  # (d,)
    covariance: Tensor  # (d, d), divided by n - 1
    n: int


@dataclass(frozen=True)
class ClassDistances:
    """FID class by class. Few images a class make it large: compare at equal counts only."""

    distances: dict[int, float]  # classes with at least two images on both sides
    missing: tuple[int, ...]  # classes of the real images with fewer than two samples

    @property
    def mean(self) -> float:
        """Over the classes that have a distance."""
        return sum(self.distances.values()) / len(self.distances)

    @property
    def worst(self) -> float:
        return self.distances[self.worst_class]

    @property
    def worst_class(self) -> int:
        return max(self.distances, key=lambda label: self.distances[label])

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, for JSON."""
        return {
            "mean": self.mean,
            "worst": self.worst,
            "worst_class": self.worst_class,
            "classes": {str(label): distance for label, distance in self.distances.items()},
            "missing": list(self.missing),
        }


def moments(features: Tensor, *, name: str = "samples") -> Moments:
    """Mean and covariance of (n, d), n >= 2, in float64."""
    features = check_features(features, name=name, metric="FID", least=2).double()
    mean = features.mean(0)
    centred = features - mean
    return Moments(mean.cpu(), (centred.T @ centred / (len(features) - 1)).cpu(), len(features))


def weighted_moments(features: Tensor, weights: Tensor) -> Moments:
    """Mean and covariance of (n, d) where image i counts `weights[i]` times, (n,) > 0, in float64.

    The covariance is divided by W - sum w_i^2 / W, W = sum w_i, which is n - 1 where all weigh 1.
    """
    x = check_features(features, name="samples", metric="FID", least=2).double()
    w = weights.to(x.device).double()[:, None]
    total = w.sum()
    mean = (w * x).sum(0) / total
    centred = x - mean
    return Moments(mean.cpu(), ((w * centred).T @ centred / (total - w.square().sum() / total)).cpu(), len(x))


def class_weights(labels: Tensor, reference_labels: Tensor) -> Tensor:
    """The weights of images with `labels` (n,) for each class to have the share that it has among
    `reference_labels` (m,), (n,) float64; classes that are not among `labels` cannot be weighed, and are left out.
    """
    ours, theirs = _class_shares(labels, reference_labels)
    return (theirs / ours.clamp(min=1e-12)).clamp(min=1e-12)[labels]  # next to nothing for classes of the samples alone


def class_distance(labels: Tensor, reference_labels: Tensor) -> float:
    """The share of images that would have to be of another class for both, (n,) and (m,), to have equal proportions."""
    ours, theirs = _class_shares(labels, reference_labels)
    return float((ours - theirs).abs().sum() / 2)


def _class_shares(*sets: Tensor) -> list[Tensor]:
    """The share of each class in each set of labels (n,) int64, (k,) float64 each."""
    k = max(int(labels.max()) for labels in sets) + 1
    return [torch.bincount(labels, minlength=k).double() / len(labels) for labels in sets]


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), by torch-fidelity."""
    if a.mean.shape != b.mean.shape:
        raise UsageError(f"FID: features of {len(a.mean)} and {len(b.mean)} numbers; take the same layer.")
    import_torchvision()  # torch-fidelity imports it
    module = importlib.import_module("torch_fidelity.metric_fid")
    both = [{"mu": x.mean.numpy(), "sigma": x.covariance.numpy()} for x in (a, b)]
    distance = float(module.fid_statistics_to_metric(*both, verbose=False)[module.KEY_METRIC_FID])
    return _without_rounding_noise(distance, float((a.mean - b.mean).square().sum() + _trace(a) + _trace(b)))


def relative_frechet_distance(samples: Moments, reference: Moments, *, distance: float | None = None) -> float:
    """The Frechet distance over tr(C_reference): 1 is what samples get that are all the mean of the real features.

    `distance` is the Frechet distance, where it is known.
    Raises `DataError` where the real features do not vary.
    """
    trace = float(reference.covariance.trace())
    if trace <= 1e-20 * float(reference.mean @ reference.mean):  # rounding
        raise DataError("FID over the trace: the features of the real images do not vary.")
    distance = frechet_distance(samples, reference) if distance is None else distance
    return _without_rounding_noise(distance / trace, 1.0)


def fid(samples: Tensor, reference: Tensor) -> float:
    """FID of two sets of features (n, d), (m, d); at least two images a side."""
    samples, reference = check_pair(samples, reference, metric="FID", least=2)
    return frechet_distance(moments(samples), moments(reference, name="real images"))


def per_class_fid(
    samples: Tensor, sample_labels: Tensor, reference: Tensor, reference_labels: Tensor
) -> ClassDistances:
    """FID of the samples of each class against the real images of that class: (n, d), (n,), (m, d), (m,).

    Classes are those of the real images. A class with fewer than two images on a side has no covariance and so no
    distance; where it is samples that it lacks, it is listed as missing. Raises `UsageError` where no class has one.
    """
    metric = "Per-class FID"
    samples, reference = check_pair(samples, reference, metric=metric, least=2)
    sample_labels = check_labels(sample_labels, len(samples), name="samples", metric=metric)
    reference_labels = check_labels(reference_labels, len(reference), name="real images", metric=metric)
    distances, missing = {}, []
    for label in reference_labels.unique().tolist():
        ours, real = samples.cpu()[sample_labels == label], reference.cpu()[reference_labels == label]
        if len(ours) < 2:
            missing.append(label)
        elif len(real) >= 2:
            distances[label] = frechet_distance(moments(ours), moments(real))
    if not distances:
        raise UsageError(f"{metric}: no class has two samples and two real images.")
    return ClassDistances(distances, tuple(missing))


def fid_infinity(samples: Tensor, reference: Tensor, *, seed: int = 0) -> float:
    """FID at infinite n: the intercept of FID over 1/n, by least squares, at least 1,000 images a side.

    After Chong & Forsyth 2020, https://arxiv.org/abs/1911.07023: FID's bias is about c/n, so random subsets of
    n/3 to n images lie on a line. They shrink the samples alone, which leaves the bias that the finite reference
    makes; here both sides shrink together, so that two samples of one distribution give 0 within the noise, on
    either side of it. Subsets are drawn by `seed`; their sizes are even in 1/n.
    """
    samples, reference = check_pair(samples, reference, metric="FID at infinite n", least=INFINITY_LEAST)
    samples, reference = samples.cpu().double(), reference.cpu().double()
    generator = torch.Generator().manual_seed(seed)
    n = min(len(samples), len(reference))
    sizes = (n / torch.linspace(INFINITY_RANGE, 1, INFINITY_POINTS, dtype=torch.float64)).round().long()
    distances = []
    for size in sizes.tolist():
        ours, real = (x[torch.randperm(len(x), generator=generator)[:size]] for x in (samples, reference))
        distances.append(frechet_distance(moments(ours), moments(real)))
    _, intercept = statistics.linear_regression([1 / size for size in sizes.tolist()], distances)
    return _without_rounding_noise(intercept, max(map(abs, distances)))


def _trace(x: Moments) -> Tensor:
    return x.covariance.trace()


def _without_rounding_noise(value: float, scale: float) -> float:
    """The value to eleven digits of `scale`, the largest of the terms that it is a difference of.

    What lies beyond is rounding, and threads and the places of arrays in memory decide it: it would differ from one
    call to the next.
    """
    return round(value, 10 - math.floor(math.log10(scale))) if scale > 0 and math.isfinite(value) else value
