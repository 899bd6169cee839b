"""The scale of a score: what real images get, and what corrupted ones get, against the same reference at the same n.

The floor is the real-vs-real baseline, the best possible value: other real images, from the training split. The other
rows are real training images corrupted so that an eye can tell.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnistgen.data import Dataset, to_float, to_uint8
from mnistgen.errors import DataError
from mnistgen.metrics import label_agreement
from mnistgen.scoring.evaluators import Evaluators
from mnistgen.scoring.measure import Measured, measure
from mnistgen.scoring.reference import Reference, class_counts, stratified_indices

NOISE = 0.1  # standard deviation, of the range from black to white
BLUR = 1.0  # standard deviation, pixels
COLLAPSED = 1  # the class that is generated whatever was requested
FLOOR = "floor"


def noisy(images: Tensor, sigma: float = NOISE, *, seed: int = 0) -> Tensor:
    """Gaussian noise on every pixel, clipped and rounded: (n, 1, 28, 28) uint8 -> the same."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return to_uint8(to_float(images) + 2 * sigma * noise)


def blurred(images: Tensor, sigma: float = BLUR) -> Tensor:
    """A Gaussian blur, rounded; 0 leaves the images as they are: (n, 1, 28, 28) uint8 -> the same."""
    if sigma == 0:
        return images
    reach = max(1, round(4 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = F.conv2d(images.float(), kernel.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(x, kernel.view(1, 1, -1, 1), padding=(reach, 0)).round().clamp(0, 255).to(torch.uint8)


def _collapsed(training: Dataset, labels: Tensor, seed: int) -> Tensor:
    places = (training.y == COLLAPSED).nonzero().flatten()
    chosen = torch.randint(len(places), (len(labels),), generator=torch.Generator().manual_seed(seed))
    return training.images[places[chosen]]


def _uniform(labels: Tensor, seed: int) -> Tensor:
    shape = (len(labels), 1, 28, 28)
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def compute_scale(
    evaluators: Evaluators,
    reference: Reference,
    training: Dataset,
    n: int,
    *,
    draws: int = 10,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """The floor and the corrupted rows at `n` images: {row: {"mean": numbers, "spread": numbers, "draws": int}}.

    Images are drawn from the training split with the class counts of the reference, `draws` times for the floor
    (its spread is the standard deviation over them) and once for each other row. Label agreement and confidence of
    the floor are those of the reference images: training images are what the evaluator was trained on.
    """
    rows: dict[str, Callable[[Dataset], Tensor]] = {
        "noisy": lambda real: noisy(real.images, seed=seed),
        "blurred": lambda real: blurred(real.images),
        "one class": lambda real: _collapsed(training, real.y, seed),
        "uniform noise": lambda real: _uniform(real.y, seed),
    }
    total = draws + len(rows)
    floors, labels = [], real_labels(evaluators, reference)
    for i in range(draws):
        floors.append(floor(evaluators, reference, training, n, seed=seed + i).numbers | labels)
        if progress:
            progress(f"{n} images, floor {i + 1} of {draws}", (i + 1) / total)
    scale = {FLOOR: summary(floors)}
    real = _real(reference, training, n, seed)
    for i, (name, corrupt) in enumerate(rows.items()):
        result = measure(evaluators.extract(corrupt(real), real.y), reference, seed=seed)
        scale[name] = summary([result.numbers])
        if progress:
            progress(f"{n} images, {name}", (draws + i + 1) / total)
    return scale


def floor(evaluators: Evaluators, reference: Reference, training: Dataset, n: int, *, seed: int = 0) -> Measured:
    """Measure n random training images. Raises `DataError` where there are not as many of a class."""
    real = _real(reference, training, n, seed)
    return measure(evaluators.extract(real.images, real.y), reference, seed=seed)


def real_labels(evaluators: Evaluators, reference: Reference) -> dict[str, float]:
    """Label agreement and confidence of the reference images. Raises `DataError` where they are not on disk."""
    probabilities = reference.features.probabilities
    if probabilities is None:
        if reference.images is None:
            raise DataError("The floor: the reference images are not on disk.")
        probabilities = evaluators.extract(reference.images).probabilities
        assert probabilities is not None
    agreement = label_agreement(probabilities, reference.labels)
    assert agreement.share is not None
    return {"label_agreement": agreement.share, "mean_confidence": agreement.mean_confidence}


def summary(results: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation of each number over several draws."""
    values = {name: [result[name] for result in results] for name in results[0]}
    return {
        "mean": {name: statistics.fmean(numbers) for name, numbers in values.items()},
        "spread": {name: statistics.stdev(numbers) for name, numbers in values.items() if len(numbers) > 1},
        "draws": len(results),
    }


def _real(reference: Reference, training: Dataset, n: int, seed: int) -> Dataset:
    return training.subset(stratified_indices(training.y, class_counts(reference.labels, n), seed=seed))
