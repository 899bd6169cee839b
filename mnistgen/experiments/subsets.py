"""The images that may be seen: balanced subsets, nested by size, and the guard that holds generators to them."""

import hashlib
from collections import Counter

import numpy as np
import torch
from torch import Tensor

from mnistgen.data import Dataset
from mnistgen.errors import LeakageError, UsageError


def seed_of(*parts: object) -> int:
    """A seed in [0, 2^63) for what these words and numbers name: the same whichever process asks."""
    text = " ".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class Subsets:
    """The subsets of one repetition: each class in an order of its own, of which a subset is the beginning."""

    def __init__(self, data: Dataset, seed: int) -> None:
        self.data = data
        labels = data.require_labels("for a study").cpu()
        self._orders: list[Tensor] = []
        for label in range(data.num_classes):
            places = (labels == label).nonzero().flatten()
            order = np.random.default_rng((seed, label)).permutation(len(places))
            self._orders.append(places[torch.from_numpy(order)])
        self._seed = seed

    @property
    def least(self) -> int:
        """Images of the rarest class."""
        return min(map(len, self._orders))

    def take(self, per_class: int | None, *, skip: int = 0) -> Dataset:
        """`per_class` images of each class after the first `skip`, class by class in turn; None: all there are.

        Raises `UsageError` where a class has too few.
        """
        return self.data.subset(self.places(per_class, skip=skip))

    def places(self, per_class: int | None, *, skip: int = 0) -> Tensor:
        """The indices of `take`, (n,) int64."""
        if per_class is None:
            return torch.arange(len(self.data))
        if skip + per_class > self.least:
            rarest = min(range(len(self._orders)), key=lambda label: len(self._orders[label]))
            raise UsageError(
                f"{self.data.name}: {skip + per_class} images of each class are needed, and class {rarest} has "
                f"{self.least}. Ask for fewer a class."
            )
        return torch.stack([order[skip : skip + per_class] for order in self._orders], 1).flatten()

    def pool(self, without: Tensor, count: int) -> Tensor:
        """Indices of at most `count` images that are not among `without`, whatever their labels, (m,) int64."""
        order = torch.from_numpy(np.random.default_rng((self._seed, self.data.num_classes)).permutation(len(self.data)))
        return order[~torch.isin(order, without)][:count]


def fingerprints(images: Tensor, labels: Tensor | None = None) -> Counter[str]:
    """How often each image occurs, by the hash of its pixels and, where given, its label: (n, 1, 28, 28), (n,)."""
    names = [""] * len(images) if labels is None else [str(label) for label in labels.tolist()]
    rows = images.cpu().contiguous().numpy()
    return Counter(
        hashlib.blake2b(row.data, digest_size=16, salt=name.encode()).hexdigest()
        for row, name in zip(rows, names, strict=True)
    )


def content(prints: Counter[str]) -> str:
    """16 hex digits for a set of images in any order."""
    text = "\n".join(f"{name} {count}" for name, count in sorted(prints.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_exactly(trained_on: Dataset, subset: Dataset, who: str) -> str:
    """The `content` of both. Raises `LeakageError` unless these are the subset's images and labels, each as often."""
    seen = fingerprints(trained_on.images, trained_on.labels)
    allowed = fingerprints(subset.images, subset.labels)
    outside, unseen = (seen - allowed).total(), (allowed - seen).total()
    if outside or unseen:
        raise LeakageError(
            f"{who} would be trained on {outside} images from outside the subset of {len(subset)} that its classifiers "
            f"see, and without {unseen} of it. The study stops, because its result would mean nothing."
        )
    return content(seen)


def check_within(trained_on: Dataset, allowed: Dataset, who: str) -> str:
    """The `content` of `trained_on`. Raises `LeakageError` where an image, whatever its label, is not in `allowed`."""
    outside = (fingerprints(trained_on.images) - fingerprints(allowed.images)).total()
    if outside:
        raise LeakageError(
            f"{who} would be trained on {outside} images that are not in the {allowed.split} split of {allowed.name}. "
            "The study stops, because its result would mean nothing."
        )
    return content(fingerprints(trained_on.images, trained_on.labels))


def check_trained_on(trained_on: str, allowed: Dataset, who: str) -> None:
    """Raise `LeakageError` unless `trained_on` is the `content` of the images and labels of `allowed`."""
    if trained_on != content(fingerprints(allowed.images, allowed.labels)):
        raise LeakageError(
            f"{who} was trained on other images than the subset that its classifiers see. The study stops, because its "
            "result would mean nothing; take another folder."
        )
