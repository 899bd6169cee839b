"""Measurements of a set of images: numbers by their names, and what stands behind them.

A number is called by its metric, and where it is taken in features by the network and layer: "fid.A.penultimate".
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mnistgen.data import Dataset
from mnistgen.errors import DataError, UsageError
from mnistgen.metrics import (
    class_distance,
    class_weights,
    fid_infinity,
    frechet_distance,
    kid,
    label_agreement,
    memorisation,
    moments,
    nearest,
    per_class_fid,
    pixels,
    prdc,
    relative_frechet_distance,
    weighted_moments,
)
from mnistgen.scoring.evaluators import EARLY, PENULTIMATE, Features, View
from mnistgen.scoring.reference import LEAST, SUBSET_SEED, Reference, class_counts, stratified_indices

JUDGED = (PENULTIMATE, View("B", "penultimate"))  # of the networks that models are ranked by
FULL = (PENULTIMATE, EARLY)  # the layers in which everything is measured, and not FID alone
TRAINING_IMAGES = 10_000  # among which memorised ones are looked for


@dataclass(eq=False)
class Measured:
    """Numbers, with their details, the seconds they took, and what could not be measured and why."""

    numbers: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str, *, needed: bool = False) -> Iterator[None]:
        """Inside, a part is measured and timed; one that the images do not allow is noted, and the others go on,
        unless it is `needed`."""
        start = time.perf_counter()
        try:
            yield
        except (UsageError, DataError) as error:
            if needed:
                raise
            self.not_measured[name] = _without(name, str(error))
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _without(name: str, reason: str) -> str:
    """A reason without the name of the part at its beginning: it stands behind that name wherever it is read."""
    before, colon, rest = reason.partition(": ")
    return rest if colon and before.lower().removeprefix("the ") == name.lower() else reason


def measure(samples: Features, reference: Reference, *, seed: int = 0) -> Measured:
    """Everything that needs features alone. Raises `UsageError` where there are fewer than 100 images."""
    n = len(samples)
    if n < LEAST:
        raise UsageError(f"There are too few images to score, {n}; it takes at least {LEAST}, and 10,000 is usual.")
    reference = reference.take(n)
    result = Measured()
    numbers, real = result.numbers, reference.features
    with result.part("FID", needed=True):
        for view, features in samples.by_layer.items():
            ours, theirs = moments(features), moments(real.by_layer[view], name="real images")
            numbers[f"fid.{view}"] = distance = frechet_distance(ours, theirs)
            numbers[f"relative_fid.{view}"] = relative_frechet_distance(ours, theirs, distance=distance)
    with result.part("per-class FID"):
        if samples.labels is None:
            raise UsageError("Per-class FID: these images have no labels.")
        classes = per_class_fid(
            samples.by_layer[PENULTIMATE], samples.labels, real.by_layer[PENULTIMATE], reference.labels
        )
        numbers |= {"class_fid.mean": classes.mean, "class_fid.worst": classes.worst}
        result.details["per_class_fid"] = classes.to_dict()
    with result.part("class proportions"):
        labels = samples.labels
        if labels is None:  # what the evaluator sees will do
            assert samples.probabilities is not None
            labels = samples.probabilities.argmax(1)
        weights = class_weights(labels, reference.labels)
        for view in (view for view in JUDGED if view in samples.by_layer):
            ours, theirs = weighted_moments(samples.by_layer[view], weights), moments(real.by_layer[view])
            numbers[f"reweighted_fid.{view}"] = frechet_distance(ours, theirs)
        result.details["class_proportions"] = {
            "distance": class_distance(labels, reference.labels),
            "labels": "as requested" if samples.labels is not None else "as evaluator A predicts them",
        }
    with result.part("FID at infinite n"):
        for view in FULL:
            infinite = fid_infinity(samples.by_layer[view], real.by_layer[view], seed=seed)
            numbers[f"fid_infinity.{view}"] = infinite
    with result.part("KID"):
        for view in FULL:
            kernel = kid(samples.by_layer[view], real.by_layer[view], seed=seed)
            numbers |= {f"kid.{view}": kernel.mean, f"kid_spread.{view}": kernel.spread}
    with result.part("precision and recall"):
        for view in FULL:
            for name, value in prdc(samples.by_layer[view], real.by_layer[view])._asdict().items():
                numbers[f"{name}.{view}"] = value
    with result.part("labels"):
        assert samples.probabilities is not None
        agreement = label_agreement(samples.probabilities, samples.labels)
        numbers["mean_confidence"] = agreement.mean_confidence
        if agreement.share is not None:
            numbers["label_agreement"] = agreement.share
        result.details["labels"] = agreement.to_dict()
    if samples.labels is None:
        result.not_measured["label agreement"] = "these images have no labels."
    return result


def measure_memorisation(
    result: Measured,
    images: Tensor,
    labels: Tensor,
    reference: Reference,
    training: Dataset,
    *,
    training_images: int = TRAINING_IMAGES,
    seed: int = 0,
) -> Tensor | None:
    """Add what the distances to training images say, in pixels: (n, 1, 28, 28) uint8, (n,) int64.

    Returns the strip: one sample a class, that which is nearest to a training image, above that image out of all
    training images, (2 k, 1, 28, 28) uint8; None where it could not be measured.
    """
    with result.part("memorisation"):
        held_out = reference.take(len(images))
        if held_out.images is None:
            raise DataError("Memorisation: the real images are not on disk.")
        count = min(training_images, len(training))
        chosen = training.subset(stratified_indices(training.y, class_counts(training.y, count), seed=SUBSET_SEED))
        found = memorisation(
            pixels(images), labels, pixels(held_out.images), held_out.labels, pixels(chosen.images), seed=seed
        )
        copying = found.copying
        result.numbers |= {
            "authentic": found.authentic_share,
            "authentic_real": found.held_out_authentic_share,
            "closer": found.closer,
            "copying": copying.statistic,
        }
        result.details["memorisation"] = {**found.to_dict(), "space": "pixels", "training_images": count}
        first = torch.tensor([int(found.closest[labels[found.closest] == label][0]) for label in labels.unique()])
        near = nearest(pixels(images[first]), pixels(training.images)).indices[:, 0]
        return torch.cat([images[first], training.images[near]])
    return None
