"""Features and predictions of a classifier, and how good they are: accuracy with its interval, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mnistgen.data import Dataset, Images, as_dataset, to_float
from mnistgen.data.dataset import check_images
from mnistgen.errors import UsageError, suggestion
from mnistgen.evaluator.networks import Classifier

BATCH = 50  # what a layer makes of it stays in the cache: twice as fast as 250 on two cores
CALIBRATION_BINS = 15


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A classifier's probabilities on labelled images, and what follows from them."""

    probabilities: Tensor  # (n, k)
    labels: Tensor  # (n,) int64

    def __post_init__(self) -> None:
        n, k = len(self.labels), self.probabilities.shape[-1]
        if n == 0 or self.probabilities.shape != (n, k):
            raise UsageError(f"There are {n} labels for probabilities {tuple(self.probabilities.shape)}.")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= k:
            raise UsageError(f"Labels are in 0..{int(self.labels.max())}, and this classifier knows 0 to {k - 1}.")

    @cached_property
    def predictions(self) -> Tensor:
        """(n,) int64."""
        return self.probabilities.argmax(1)

    @property
    def correct(self) -> int:
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        return self.correct / len(self.labels)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy."""
        return wilson_interval(self.correct, len(self.labels))

    @cached_property
    def confusion(self) -> Tensor:
        """The counts of class i predicted as class j, (k, k) int64."""
        return confusion_matrix(self.labels, self.predictions, self.probabilities.shape[1])

    @property
    def calibration_error(self) -> float:
        return calibration_error(self.probabilities, self.labels)

    @property
    def misclassified(self) -> Tensor:
        """Indices of the wrong ones, the most confidently wrong first, (m,) int64."""
        wrong = (self.predictions != self.labels).nonzero().flatten()
        confidence = self.probabilities[wrong].amax(1)
        return wrong[confidence.argsort(descending=True, stable=True)]

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, for JSON."""
        precision, recall, f1 = class_scores(self.confusion).tolist()
        return {
            "n": len(self.labels),
            "accuracy": self.accuracy,
            "interval_95": list(self.interval),
            "errors": len(self.labels) - self.correct,
            "calibration_error": self.calibration_error,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "confusion": self.confusion.tolist(),
        }


LAYERS = ("penultimate", "early")


def extract(
    model: Classifier, images: Tensor, *, layers: Sequence[str] = LAYERS, batch_size: int = BATCH
) -> dict[str, Tensor]:
    """Features of images in one pass: (n, 1, 28, 28) uint8 -> {layer: (n, d)}, on the CPU.

    "logits" are float32; every other layer is rounded to float16, as the reference features that ship are, so that both
    sides of a score take the same path. Raises `UsageError` for a layer that the classifier lacks.
    """
    check_images(images, "the images to classify", error=UsageError)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    try:
        with torch.inference_mode():
            for batch in images.split(batch_size):
                x = to_float(batch.to(device)).contiguous(memory_format=torch.channels_last)
                there = model.features(x)
                for layer in layers:
                    if layer not in there:
                        raise UsageError(
                            f"{type(model).__name__} has no layer {layer!r}. {suggestion(layer, list(there))}"
                        )
                    values = there[layer].float() if layer == "logits" else there[layer].half()
                    found[layer].append(values.cpu())
    finally:
        model.train(training)
    return {layer: torch.cat(parts) if parts else torch.empty(0, 0) for layer, parts in found.items()}


def predict(model: Classifier, data: Dataset, *, batch_size: int = BATCH) -> Tensor:
    """Probabilities of the classes for each image, in float32 on the CPU, (n, k); where the model is."""
    if not len(data):
        return torch.empty(0, model.num_classes)
    return extract(model, data.images, layers=["logits"], batch_size=batch_size)["logits"].softmax(1)


def evaluate(model: Classifier, data: Images, *, batch_size: int = BATCH) -> Evaluation:
    """Classify labelled images, a `Dataset` or what `as_dataset` makes one of.

    Raises `UsageError` where the data has classes that the model does not know, `DataError` where it has no labels.
    """
    data = as_dataset(data, num_classes=model.num_classes)
    if data.num_classes != model.num_classes:
        raise UsageError(
            f"{data.name} has {data.num_classes} classes and this classifier knows {model.num_classes}; "
            "test it on the dataset it was trained for."
        )
    return Evaluation(predict(model, data, batch_size=batch_size), data.require_labels("to test a classifier").cpu())


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95% interval of a proportion whose test does not reject it (Wilson 1927)."""
    from scipy.stats import binomtest  # takes long to import

    if not 0 <= successes <= n or n < 1:
        raise UsageError(f"{successes} of {n} is no proportion.")
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Count how often class i was predicted as class j: (n,), (n,) int64 -> (k, k) int64."""
    counts = torch.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return counts.view(num_classes, num_classes)


def class_scores(confusion: Tensor) -> Tensor:
    """Precision, recall and F1 of each class: (k, k) -> (3, k) float64; 0 where a class never occurs."""
    confusion = confusion.double()
    hits, predicted, actual = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
    precision, recall = hits / predicted.clamp(min=1), hits / actual.clamp(min=1)
    return torch.stack([precision, recall, 2 * hits / (predicted + actual).clamp(min=1)])


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error (Naeini et al. 2015): sum over bins of n_b / n |accuracy_b - confidence_b|.

    Bins of equal width over the confidence, the largest probability; bin b is (b / bins, (b + 1) / bins].
    """
    confidence, predictions = probabilities.double().max(1)
    hits = (predictions == labels).double()
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, hits - confidence)
    return float(gaps.abs().sum() / len(labels))
