"""Label agreement: whether the evaluator predicts the class that was requested."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mnistgen.errors import DataError, UsageError
from mnistgen.evaluator import Evaluation, wilson_interval
from mnistgen.metrics.features import check_labels

MISSING = 0.1  # a class is missing below this share of the images expected of it
SHOWN = 5  # classes, or pairs of them, that a sentence about many names
CONFUSED = 0.05  # a class is confused where more of its images than this are surely predicted as one other class


class Alarm(NamedTuple):
    """A class that is missing, or that is confused with another."""

    kind: Literal["missing", "confused"]
    label: int
    predicted_as: int | None  # the other class, where confused
    share: float  # missing: of the images expected of it; confused: of its images, those predicted as the other

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self, class_names: Sequence[str] = ()) -> str:
        """What a person should know, by the names of the classes where they have some."""
        name = _name(self.label, class_names)
        if self.kind == "missing":
            return f"Class {name} is missing: it is predicted {self.share:.1%} as often as expected."
        other = _name(self.predicted_as, class_names)
        return f"Class {name} is confused: {self.share:.1%} of its images are predicted as {other}."


def _name(label: int | None, class_names: Sequence[str]) -> str:
    return class_names[label] if label is not None and label < len(class_names) else str(label)


def summaries(alarms: Sequence[Alarm], class_names: Sequence[str] = ()) -> list[str]:
    """A sentence for the missing classes and one for the confused ones, however many there are, by the names of the
    classes where they have some."""
    lines: list[str] = []
    for kind in ("missing", "confused"):
        found = sorted((alarm for alarm in alarms if alarm.kind == kind), key=_badness)
        if len(found) < 2:
            lines += [alarm.sentence(class_names) for alarm in found]
            continue
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        shown = ", ".join(_short(alarm, class_names) for alarm in found[:SHOWN]) + more
        if kind == "missing":
            lines.append(f"{len(found)} classes are missing, predicted at these shares of what is expected: {shown}.")
        else:
            lines.append(f"Classes are confused, with these shares of their images: {shown}.")
    return lines


def _badness(alarm: Alarm) -> tuple[float, int]:
    """The worst first."""
    return (alarm.share if alarm.kind == "missing" else -alarm.share, alarm.label)


def _short(alarm: Alarm, class_names: Sequence[str]) -> str:
    other = "" if alarm.predicted_as is None else f"as {_name(alarm.predicted_as, class_names)} "
    return f"{_name(alarm.label, class_names)} {other}({alarm.share:.1%})"


@dataclass(frozen=True, eq=False)
class Agreement:
    """Predictions of an evaluator, beside the labels that were requested."""

    predicted: Tensor  # (k,) int64, images predicted as each class
    mean_confidence: float  # mean of the largest probability
    requested: Tensor | None  # (k,) int64; None where nothing was requested
    table: Tensor | None  # (k, k) int64, requested as class i and predicted as class j
    share: float | None  # of images predicted as requested
    interval: tuple[float, float] | None  # of the share, 95%
    alarms: tuple[Alarm, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, for JSON."""
        return {
            "agreement": self.share,
            "interval_95": None if self.interval is None else list(self.interval),
            "mean_confidence": self.mean_confidence,
            "predicted": self.predicted.tolist(),
            "requested": None if self.requested is None else self.requested.tolist(),
            "table": None if self.table is None else self.table.tolist(),
            "alarms": [{**alarm._asdict(), "text": str(alarm)} for alarm in self.alarms],
        }


def label_agreement(probabilities: Tensor, labels: Tensor | None) -> Agreement:
    """Compare probabilities of the classes for each image (n, k) with the labels that were requested (n,) int64, or
    None of an unconditional model, of which all classes are expected equally often.

    A class is missing where it is predicted less than a tenth as often as expected, and the 95% interval of its share
    lies below the expected share; it is confused where the 95% interval of the share of its images that are predicted
    as one other class lies above 5%. Raises `UsageError` on shapes or labels that do not fit, `DataError` where a
    probability is not in [0, 1].
    """
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise UsageError(f"Label agreement: probabilities are {tuple(probabilities.shape)}; it takes (n, k), n > 0.")
    probabilities = probabilities.detach().cpu()
    if not bool(((probabilities >= 0) & (probabilities <= 1 + 1e-5)).all()):
        raise DataError("Label agreement: a probability is not in [0, 1]; apply softmax to logits first.")
    n, k = probabilities.shape
    confidence = float(probabilities.double().amax(1).mean())
    if labels is None:
        predicted = torch.bincount(probabilities.argmax(1), minlength=k)
        return Agreement(predicted, confidence, None, None, None, None, _missing(predicted, torch.full((k,), n / k)))
    evaluation = Evaluation(probabilities, check_labels(labels, n, name="samples", metric="Label agreement"))
    table = evaluation.confusion
    predicted, requested = table.sum(0), table.sum(1)
    alarms = _missing(predicted, requested) + _confused(table)
    return Agreement(predicted, confidence, requested, table, evaluation.accuracy, evaluation.interval, alarms)


def _missing(predicted: Tensor, expected: Tensor) -> tuple[Alarm, ...]:
    n = int(predicted.sum())
    alarms = []
    for label, (count, wanted) in enumerate(zip(predicted.tolist(), expected.tolist(), strict=True)):
        if count < MISSING * wanted and wilson_interval(count, n)[1] < wanted / n:
            alarms.append(Alarm("missing", label, None, count / wanted))
    return tuple(alarms)


def _confused(table: Tensor) -> tuple[Alarm, ...]:
    alarms = []
    for label, row in enumerate(table.tolist()):
        others = [(count, other) for other, count in enumerate(row) if other != label and count]
        for count, other in sorted(others, reverse=True):
            if wilson_interval(count, sum(row))[0] > CONFUSED:
                alarms.append(Alarm("confused", label, other, count / sum(row)))
    return tuple(alarms)
