"""The reference of a score: the features of a dataset's test images, and the files of them that ship."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from mnistgen import integrity
from mnistgen.data import ConversionKeywords, Dataset, load_data
from mnistgen.data.convert import BINARISATIONS
from mnistgen.data.families import ALIASES, FAMILIES
from mnistgen.data.loading import slug
from mnistgen.errors import DataError, UsageError
from mnistgen.evaluator.weights import FOLDER, train_command
from mnistgen.files import atomic_file
from mnistgen.metrics import stratified_halves
from mnistgen.scoring.evaluators import Evaluators, Features, View

FORMER_ROWS = {"noised": "noisy"}  # names of rows in scales of an earlier version
LEAST = 100  # images; fewer say nothing of a distribution
SUBSET_SEED = 0  # which test images stand for all where n is smaller; it belongs to the protocol, not to a run


@dataclass(frozen=True, eq=False)
class Reference:
    """The real images that samples are held against."""

    name: str  # of the dataset
    split: str
    hash: str  # of the dataset's split
    features: Features
    images: Tensor | None = None  # (n, 1, 28, 28) uint8, where the dataset is on disk
    features_hash: str = ""  # of the files that the features were read from; empty where they were computed here
    class_names: tuple[str, ...] = ()  # one for each class, or none

    def __len__(self) -> int:
        return len(self.features)

    @property
    def labels(self) -> Tensor:
        assert self.features.labels is not None
        return self.features.labels

    @property
    def classes(self) -> tuple[int, ...]:
        """The labels that have images, ascending."""
        return tuple(self.labels.unique().tolist())

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where the classes have no names."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def of_classes(self, classes: Sequence[int]) -> "Reference":
        """The images of these classes alone; the split says so."""
        indices = torch.isin(self.labels, torch.tensor(classes)).nonzero().flatten()
        images = None if self.images is None else self.images[indices.to(self.images.device)]
        split = f"{self.split} (classes {', '.join(map(str, classes))})".strip()
        return replace(self, split=split, features=self.features.subset(indices), images=images)

    def take(self, n: int) -> "Reference":
        """Take at most n of the images, at random by class, always the same ones: the first ones are another
        population."""
        if n >= len(self):
            return self
        indices = stratified_indices(self.labels, class_counts(self.labels, n), seed=SUBSET_SEED)
        images = None if self.images is None else self.images[indices]
        return replace(self, features=self.features.subset(indices), images=images)


def class_counts(labels: Tensor, n: int) -> list[int]:
    """Divide n images among the classes, in the proportions of `labels` (m,) int64: by largest remainders."""
    shares = torch.bincount(labels).double() * n / len(labels)
    counts = shares.floor().long()
    order = (shares - counts).argsort(descending=True, stable=True)
    counts[order[: n - int(counts.sum())]] += 1
    return [int(count) for count in counts]


def stratified_indices(labels: Tensor, counts: list[int], *, seed: int) -> Tensor:
    """Choose random images of which class c occurs `counts[c]` times: their indices, (sum of counts,) int64, shuffled.

    Raises `DataError` where a class has too few.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, count in enumerate(counts):
        places = (labels == label).nonzero().flatten()
        if len(places) < count:
            raise DataError(f"There are {len(places)} images of class {label}, and {count} are needed.")
        chosen.append(places[torch.randperm(len(places), generator=generator)[:count]])
    indices = torch.cat(chosen)
    return indices[torch.randperm(len(indices), generator=generator)]


def is_named(dataset: str) -> bool:
    """Whether this is one of the datasets that everybody means by its name, and no path."""
    name, _, way = dataset.lower().rpartition("-")
    return ALIASES.get(dataset.lower(), dataset.lower()) in FAMILIES or (way in BINARISATIONS and name in FAMILIES)


def dataset_name(data: str) -> str:
    """The name of the dataset that a name or a path means."""
    return ALIASES.get(data.lower(), data.lower()) if is_named(data) else slug(Path(data))


def load_reference(
    evaluators: Evaluators,
    data: str = "mnist",
    split: str = "test",
    *,
    data_dir: Path | str | None = None,
    **how: Unpack[ConversionKeywords],
) -> Reference:
    """The features that ship where they are of these evaluators, else those of the dataset; its images where on disk.

    Nothing is downloaded. Raises `DataError` or `UsageError` as `load_data` where features are neither shipped nor to
    be had.
    """
    shipped = read_reference(FOLDER, evaluators, dataset_name(data), split)
    try:
        found = load_data(data, split, data_dir=data_dir, download=False, **how)
    except (DataError, UsageError):
        if shipped is None:
            raise
        return shipped
    if shipped is not None and shipped.hash == found.hash:
        return replace(shipped, images=found.images, class_names=found.class_names)
    return of_dataset(evaluators, found, data)


def of_dataset(evaluators: Evaluators, data: Dataset, source: str | Path = "") -> Reference:
    """The images of a dataset as reference. Raises `UsageError` where its classes are not the evaluator's."""
    check_classes(evaluators, data, source)
    labels = data.require_labels("to hold samples against it")
    features = evaluators.extract(data.images, labels)
    return Reference(data.name, data.split, data.hash, features, data.images, class_names=data.class_names)


def check_classes(evaluators: Evaluators, data: Dataset, source: str | Path = "") -> None:
    """Raise `UsageError` where the evaluator knows other classes; `source` is where the dataset comes from."""
    if data.num_classes != evaluators.num_classes:
        raise UsageError(
            f"{data.name} has {data.num_classes} classes, and the evaluator knows {evaluators.num_classes}: it is for "
            f"another dataset. Train one: {train_command('A', source or data.name)}"
        )


def halves(evaluators: Evaluators, data: Dataset, name: str) -> tuple[Reference, Dataset | None]:
    """One half of a set of images as reference, and the other half, with the same class counts.

    Without labels, classes are those that evaluator A predicts. All are the reference, and there is no other half,
    where that would be fewer than 100.
    """
    images, labels, names = data.images, data.labels, data.class_names
    features = evaluators.extract(images, labels)
    if labels is None:
        assert features.probabilities is not None
        labels = features.probabilities.argmax(1)
        features = replace(features, labels=labels)
    first, second = stratified_halves(labels, torch.Generator().manual_seed(SUBSET_SEED))
    if len(first) < LEAST:
        return Reference(name, "", data.hash, features, images, class_names=names), None
    other = Dataset(images[second], labels[second], evaluators.num_classes, name, "other half")
    return Reference(name, "one half", data.hash, features.subset(first), images[first], class_names=names), other


def labels_of_test_set(data: str, *, data_dir: Path | str | None = None) -> Tensor | None:
    """The labels of a named dataset's test images, (n,) int64: those that ship, else of what is on disk, else None."""
    path = reference_file(FOLDER, dataset_name(data), "test", "A")
    try:
        if path.is_file():
            labels: Tensor = from_bytes(integrity.read(path)[0])["labels"]
            return labels.long()
        return load_data(data, "test", data_dir=data_dir, download=False).labels if is_named(data) else None
    except (SafetensorError, OSError, ValueError, KeyError, DataError, UsageError):  # told where they are needed
        return None


def reference_file(folder: Path, name: str, split: str, network: str) -> Path:
    """The file of the features of one network that ship."""
    return folder / f"reference-{name}-{split}-{network.lower()}.safetensors"


def write_reference(folder: Path, evaluators: Evaluators, data: Dataset) -> list[Path]:
    """Write the features of a dataset, one file a network, and return the files."""
    reference = of_dataset(evaluators, data)
    paths = []
    for network, digest in evaluators.hashes.items():
        path = reference_file(folder, data.name, data.split, network)
        tensors = {
            view.layer: x.contiguous() for view, x in reference.features.by_layer.items() if view.network == network
        }
        about = {"evaluator": digest, "dataset": data.name, "split": data.split, "dataset_hash": data.hash}
        content = to_bytes({**tensors, "labels": data.y.to(torch.int16)}, about | integrity.UNCHECKED)
        with atomic_file(path) as temporary:
            temporary.write_bytes(integrity.seal(content))
        paths.append(path)
    return paths


def read_reference(folder: Path, evaluators: Evaluators, name: str, split: str) -> Reference | None:
    """The features in `folder`, or None where one of the networks has none or they are another network's.

    Raises `DataError` where a file is damaged.
    """
    features: dict[View, Tensor] = {}
    about: Mapping[str, str] = {}
    labels = torch.empty(0)
    files = hashlib.sha256()
    for network, digest in evaluators.hashes.items():
        path = reference_file(folder, name, split, network)
        if not path.is_file():
            return None
        try:
            content, header = integrity.read(path)
            about = header.get("__metadata__", {})
            if about.get("evaluator") != digest:
                return None
            tensors = from_bytes(content)
            labels = tensors["labels"].long()
            features |= {view: tensors[view.layer] for view in evaluators.views if view.network == network}
            files.update(content)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{path}: these reference features are damaged; install mnistgen again ({error})."
            ) from error
    names = FAMILIES[name].class_names if name in FAMILIES else ()
    return Reference(
        name, split, about["dataset_hash"], Features(features, labels), None, files.hexdigest()[:16], names
    )


def read_scales(
    folder: Path, evaluators: Evaluators, reference: Reference
) -> tuple[dict[int, dict[str, dict[str, Any]]], str]:
    """The scales that ship for these evaluators and this reference, by n, and the hash of their file; else empty.

    Raises `DataError` where the file is damaged.
    """
    path = folder / f"scale-{reference.name}-{reference.split}.json"
    if not path.is_file():
        return {}, ""
    try:
        content = path.read_bytes()
        integrity.check_shipped(path, content)
        report = json.loads(content)
        if report["evaluators"] != dict(evaluators.hashes) or report["reference_hash"] != reference.hash:
            return {}, ""
        scales = {
            int(n): {FORMER_ROWS.get(row, row): numbers for row, numbers in rows.items()}
            for n, rows in report["scales"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: this scale is damaged; install mnistgen again ({error}).") from error
    return scales, hashlib.sha256(content).hexdigest()[:16]
