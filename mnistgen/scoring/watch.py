"""Watching samples while a model trains: the second evaluator sees a collapse while it happens.

A loss does not say that a GAN draws nothing but ones. 1,000 samples of the same latents at every look do.
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
from mnistgen.metrics import manifold_scores
from mnistgen.metrics.labels import MISSING
from mnistgen.model import GenerativeModel
from mnistgen.sampling import grid, sample
from mnistgen.scoring.reference import LEAST, SUBSET_SEED, draw

N = 1000  # samples at a look, and at most as many real images beside them
AUDITOR = "B"
ROWS, COLUMNS = 8, 10  # of a frame: latents of each class, classes


@dataclass(frozen=True, eq=False)
class Look:
    """What the second evaluator saw in 1,000 samples."""

    label_agreement: float | None  # share of samples seen as what was asked for; None of an unconditional model
    coverage: float  # share of real images with a sample as near as their fifth neighbour (Naeem et al. 2020)
    missing: tuple[int, ...]  # classes that are seen less than a tenth as often as expected
    frame: Tensor  # (h, w) uint8, the first samples, one column per class: the same latents at every look

    def to_dict(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        return {
            "label_agreement": self.label_agreement,
            "coverage": self.coverage,
            "missing": list(self.missing),
        }


class Watch:
    """Looks at a model's samples beside real images, of which up to 1,000 are taken, equally many of each class.

    Samples are asked for of `classes`, by default those that have real images. `source` is what the dataset is called
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
        self.evaluator = evaluator or load_classifier(evaluator_path(real.name, AUDITOR, source=source), device=device)
        k = self.evaluator.num_classes
        if real.num_classes != k:
            raise UsageError(
                f"{real.name} has {real.num_classes} classes, and the second evaluator knows {k}: it is for another "
                f"dataset. Train one: {train_command(AUDITOR, source or real.name)}"
            )
        if len(real) < LEAST:
            raise UsageError(f"{real.name}: {len(real)} real images are too few to hold samples against; {LEAST} do.")
        asked = torch.tensor(tuple(classes) or real.classes)
        self.columns = min(COLUMNS, len(asked))
        self.places = torch.arange(n) % len(asked)  # in turn, so that the first ones are of all classes
        self.labels = asked[self.places]
        labels = real.labels.cpu()
        held = torch.bincount(labels, minlength=k)
        chosen = draw(labels, held.clamp(max=n // len(asked)).tolist(), seed=SUBSET_SEED)
        self.features, seen = self._see(real.images[chosen.to(real.images.device)])  # (m, d), (m,)
        # What the evaluator does not recognise when it is real is not missed among samples.
        found = torch.bincount(labels[chosen][seen == labels[chosen]], minlength=k)
        drawn = torch.bincount(labels[chosen], minlength=k)
        recognised = torch.where(drawn > 0, found / drawn.clamp(min=1), 1.0)
        self.asked = torch.bincount(self.labels, minlength=k) * recognised  # (k,), expected where labels are asked for
        self.natural = n * held / len(real) * recognised  # (k,), expected of a model that draws as the data are

    def look(self, model: GenerativeModel) -> Look:
        """Draw 1,000 images and look at them; neither the model nor any global random state changes."""
        images = sample(model, self.labels, seed=SUBSET_SEED)
        features, seen = self._see(images)
        shown = images[self.places < self.columns]
        return Look(
            label_agreement=float((seen == self.labels).double().mean()) if model.respects_labels else None,
            coverage=manifold_scores(features, self.features).coverage,
            missing=missing(seen, self.asked, self.labels) if model.respects_labels else missing(seen, self.natural),
            frame=grid(shown[: ROWS * self.columns], self.columns),
        )

    def _see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, 1, 28, 28) uint8 as features (n, d) and as classes (n,) int64."""
        found = extract(self.evaluator, images, layers=["penultimate", "logits"])
        return found["penultimate"], found["logits"].argmax(1)


def missing(seen: Tensor, expected: Tensor, asked: Tensor | None = None) -> tuple[int, ...]:
    """The classes with less than a tenth of the images expected of them: (n,) int64, (k,) -> labels, ascending.

    Where labels were `asked` for, (n,) int64, an image counts only where it is seen as what it should be, so a class
    is missing too whose images have become those of another.
    """
    right = seen if asked is None else seen[seen == asked]
    counts = torch.bincount(right, minlength=len(expected))
    return tuple((counts < MISSING * expected).nonzero().flatten().tolist())
