"""Monitoring of samples during training: the second evaluator tells a collapse while it happens.

A loss does not say that a GAN generates nothing but ones. 1,000 samples of the same latents at every check do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnistgen.data import Dataset
from mnistgen.errors import UsageError
from mnistgen.evaluator import Classifier, evaluator_path, extract, load_classifier
from mnistgen.evaluator.weights import train_command
from mnistgen.metrics import prdc
from mnistgen.metrics.labels import MISSING
from mnistgen.model import GenerativeModel
from mnistgen.sampling import grid, sample
from mnistgen.scoring.reference import LEAST, SUBSET_SEED, stratified_indices

N = 1000  # samples at a check, and at most as many real images beside them
SECOND = "B"  # the evaluator that samples are checked by
ROWS, COLUMNS = 8, 10  # of a frame: latents of each class, classes


@dataclass(frozen=True, eq=False)
class SampleCheck:
    """Findings of the second evaluator on 1,000 samples."""

    label_agreement: float | None  # share of samples predicted as requested; None of an unconditional model
    coverage: float  # share of real images with a sample as near as their fifth neighbour (Naeem et al. 2020)
    missing: tuple[int, ...]  # classes predicted less than a tenth as often as expected
    frame: Tensor  # (h, w) uint8, the first samples, one column per class: the same latents at every check

    def to_dict(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        return {
            "label_agreement": self.label_agreement,
            "coverage": self.coverage,
            "missing": list(self.missing),
        }


class SampleMonitor:
    """Compares a model's samples with real images, of which up to 1,000 are taken, equally many of each class.

    Samples are requested of `classes`, by default those that have real images. `source` is what the dataset is called
    on the command line, where that is not its name.

    Raises `CheckpointError` where the dataset has no second evaluator (see `evaluator_path`), and `UsageError` where
    the evaluator knows other classes or there are fewer than 100 real images.
    """

    def __init__(
        self,
        real: Dataset,
        *,
        classes: Sequence[int] = (),
        source: str | Path = "",
        device: str | torch.device = "cpu",
        evaluator: Classifier | None = None,
        n: int = N,
    ) -> None:
        if real.labels is None:
            raise UsageError(f"{real.name} has no labels, so there is no evaluator that knows its classes.")
        self.evaluator = evaluator or load_classifier(evaluator_path(real.name, SECOND, source=source), device=device)
        k = self.evaluator.num_classes
        if real.num_classes != k:
            raise UsageError(
                f"{real.name} has {real.num_classes} classes, and the second evaluator knows {k}: it is for another "
                f"dataset. Train one: {train_command(SECOND, source or real.name)}"
            )
        if len(real) < LEAST:
            raise UsageError(f"{real.name}: {len(real)} real images are too few to hold samples against; {LEAST} do.")
        requested = torch.tensor(tuple(classes) or real.classes)
        self.columns = min(COLUMNS, len(requested))
        self.places = torch.arange(n) % len(requested)  # in turn, so that the first ones are of all classes
        self.labels = requested[self.places]
        labels = real.labels.cpu()
        held = torch.bincount(labels, minlength=k)
        chosen = stratified_indices(labels, held.clamp(max=n // len(requested)).tolist(), seed=SUBSET_SEED)
        self.features, predicted = self._extract(real.images[chosen.to(real.images.device)])  # (m, d), (m,)
        # A class that the evaluator does not recognise when it is real is not missing among samples.
        found = torch.bincount(labels[chosen][predicted == labels[chosen]], minlength=k)
        chosen_of = torch.bincount(labels[chosen], minlength=k)
        recognised = torch.where(chosen_of > 0, found / chosen_of.clamp(min=1), 1.0)
        self.requested = (
            torch.bincount(self.labels, minlength=k) * recognised
        )  # (k,), expected where labels are requested
        self.natural = n * held / len(real) * recognised  # (k,), expected of a model of the data's proportions

    def check(self, model: GenerativeModel) -> SampleCheck:
        """Sample 1,000 images and compare them; neither the model nor any global random state changes."""
        images = sample(model, self.labels, seed=SUBSET_SEED)
        features, predicted = self._extract(images)
        shown = images[self.places < self.columns]
        return SampleCheck(
            label_agreement=float((predicted == self.labels).double().mean()) if model.respects_labels else None,
            coverage=prdc(features, self.features).coverage,
            missing=missing(predicted, self.requested, self.labels)
            if model.respects_labels
            else missing(predicted, self.natural),
            frame=grid(shown[: ROWS * self.columns], self.columns),
        )

    def _extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, 1, 28, 28) uint8 as features (n, d) and as classes (n,) int64."""
        found = extract(self.evaluator, images, layers=["penultimate", "logits"])
        return found["penultimate"], found["logits"].argmax(1)


def missing(predicted: Tensor, expected: Tensor, requested: Tensor | None = None) -> tuple[int, ...]:
    """The classes with less than a tenth of the images expected of them: (n,) int64, (k,) -> labels, ascending.

    Where labels were `requested`, (n,) int64, an image counts only where it is predicted as that, so a class
    is missing too whose images have become those of another.
    """
    right = predicted if requested is None else predicted[predicted == requested]
    counts = torch.bincount(right, minlength=len(expected))
    return tuple((counts < MISSING * expected).nonzero().flatten().tolist())
