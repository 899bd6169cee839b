"""The networks of a score, and the features that they extract from images."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mnistgen.checkpoint import read_checkpoint
from mnistgen.errors import CheckpointError, UsageError
from mnistgen.evaluator import Classifier, evaluator_hash, evaluator_path, extract, load_classifier

# A scores. B is the second evaluator: another architecture and seed. The random one knows nothing of classes.
NETWORKS = ("A", "B", "random")


class View(NamedTuple):
    """One layer of one network."""

    network: str
    layer: str

    def __str__(self) -> str:
        return f"{self.network}.{self.layer}"


PENULTIMATE, EARLY = View("A", "penultimate"), View("A", "early")
VIEWS = (PENULTIMATE, EARLY, View("B", "penultimate"), View("B", "early"), View("random", "penultimate"))


@dataclass(frozen=True, eq=False)
class Features:
    """Features of images by every network, their labels, and the probabilities of their classes."""

    by_layer: Mapping[View, Tensor]  # (n, d) float16 each
    labels: Tensor | None  # (n,) int64: what the images are, or are meant to be
    probabilities: Tensor | None = None  # (n, k) float32, by evaluator A

    def __len__(self) -> int:
        return len(next(iter(self.by_layer.values())))

    def subset(self, indices: Tensor) -> "Features":
        """The images at `indices` (m,) int64."""
        return Features(
            {view: features[indices] for view, features in self.by_layer.items()},
            None if self.labels is None else self.labels[indices],
            None if self.probabilities is None else self.probabilities[indices],
        )


@dataclass(frozen=True, eq=False)
class Evaluators:
    """The evaluators of a dataset: A always, B where there is one, and the random network."""

    networks: Mapping[str, Classifier]
    hashes: Mapping[str, str]
    content: str = ""  # hash of the dataset that A was trained on, as far as its checkpoint knows

    @classmethod
    def load(
        cls, dataset: str, *, source: str | Path = "", content: str = "", device: str | torch.device = "cpu"
    ) -> "Evaluators":
        """The shipped evaluators where they were trained on `dataset`, else those of `mnistgen evaluator train`.

        `source` and `content` are as for `evaluator_path`. Raises `CheckpointError` that says how to make A, where
        there is none.
        """
        path = evaluator_path(dataset, source=source, content=content)
        networks: dict[str, Classifier] = {"A": load_classifier(path, device=device)}
        for name in NETWORKS[1:]:
            try:
                other = evaluator_path(dataset, name, source=source, content=content)
            except CheckpointError:  # it is left out, and the protocol says which networks there are
                continue
            networks[name] = load_classifier(other, device=device)
        return dataclasses.replace(cls.of(networks), content=read_checkpoint(path).content)

    @classmethod
    def of(cls, networks: Mapping[str, Classifier]) -> "Evaluators":
        """Evaluators of any classifiers, of which that called "A" scores."""
        return cls(networks, {name: evaluator_hash(network) for name, network in networks.items()})

    @property
    def num_classes(self) -> int:
        return self.networks["A"].num_classes

    @property
    def views(self) -> tuple[View, ...]:
        """The layers that count, of the networks that there are."""
        return tuple(view for view in VIEWS if view.network in self.networks)

    def extract(self, images: Tensor, labels: Tensor | None = None) -> Features:
        """Extract features in one pass of every network: (n, 1, 28, 28) uint8, (n,) int64."""
        if len(images) == 0:
            raise UsageError("There are no images to score.")
        features: dict[View, Tensor] = {}
        probabilities = None
        for name, network in self.networks.items():
            layers = [view.layer for view in self.views if view.network == name]
            found = extract(network, images, layers=[*layers, "logits"] if name == "A" else layers)
            if name == "A":
                probabilities = found.pop("logits").softmax(1)
            features |= {View(name, layer): values for layer, values in found.items()}
        return Features(features, labels, probabilities)
