"""Sources of images to score: a checkpoint, images on disk, a split of a dataset, or tensors."""

import inspect
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor

from mnistgen.checkpoint import PREFIX, Checkpoint, find, load, name_of, read_checkpoint
from mnistgen.data import DIGITS, ConversionKeywords, Dataset, Images, as_dataset, load_data, load_images
from mnistgen.errors import CheckpointNotFoundError, DataError, UsageError
from mnistgen.limits import require_memory
from mnistgen.model import IMAGE_SHAPE, GenerativeModel, uncompiled
from mnistgen.sampling import BATCH, sample_batches
from mnistgen.scoring.reference import class_counts, is_named, stratified_indices


class Taken(NamedTuple):
    """Images of a source that are scored."""

    data: Dataset  # the labels are those that were requested of a model; None where none were
    class_counts: str  # how they came about
    seconds: float


class Source(ABC):
    """A source of images to score."""

    name: str
    dataset: str  # the dataset that it is of, or ""
    class_names: tuple[str, ...]  # one for each class, or none

    @abstractmethod
    def check(self, num_classes: int) -> None:
        """Raise `UsageError` where an evaluator of that many classes cannot judge it."""

    @abstractmethod
    def take(
        self, n: int, reference_labels: Tensor, *, seed: int, progress: Callable[[float], None] | None = None
    ) -> Taken:
        """Take at most n images, with the class counts of the reference where that can be."""

    @property
    @abstractmethod
    def classes(self) -> tuple[int, ...]:
        """The classes that a model generates, or that images are of, ascending; none where they have no labels."""

    @property
    def about(self) -> dict[str, Any]:
        """The facts that a report should state."""
        return {}


@dataclass(eq=False)
class ModelSource(Source):
    """A generative model, of which n images are sampled."""

    name: str
    model: GenerativeModel
    checkpoint: Checkpoint | None = None
    batch_size: int = BATCH
    sampling_options: dict[str, Any] = field(default_factory=dict)

    @property
    def dataset(self) -> str:  # type: ignore[override]
        return self.checkpoint.dataset if self.checkpoint else ""

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.model.class_names

    @property
    def about(self) -> dict[str, Any]:
        described = {} if self.checkpoint is None else {"checkpoint": asdict(self.checkpoint)}
        return described | {"sampling": options_of(self.model) | self.sampling_options}

    @property
    def classes(self) -> tuple[int, ...]:
        return self.model.trained_classes

    def check(self, num_classes: int) -> None:
        if max(self.classes, default=0) >= num_classes:  # fewer are held against the real images of those
            raise UsageError(
                f"{self.name} has {self.model.num_classes} classes, and the evaluator knows {num_classes}: it is for "
                "another dataset. Name the dataset that the model was trained on with --data."
            )

    def take(
        self, n: int, reference_labels: Tensor, *, seed: int, progress: Callable[[float], None] | None = None
    ) -> Taken:
        require_memory(2 * math.prod(IMAGE_SHAPE) * n, f"{n} images")  # one by one, then side by side
        start = time.perf_counter()
        counts = torch.tensor(class_counts(reference_labels, n))
        labels = torch.arange(len(counts)).repeat_interleave(counts)
        if not self.classes:  # a model of images without labels is told 0 of each
            labels = torch.zeros(n, dtype=torch.int64)
        labels = labels[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
        batches, done = [], 0
        for batch in sample_batches(self.model, labels, seed=seed, batch_size=self.batch_size, **self.sampling_options):
            batches.append(batch)
            done += len(batch)
            if progress:
                progress(done / n)
        seconds = time.perf_counter() - start
        images = torch.cat(batches)
        if not self.model.respects_labels:
            return Taken(Dataset(images, None, 1, self.name, "samples"), "the model's own", seconds)
        data = Dataset(images, labels, self.model.num_classes, self.name, "samples", self.model.class_names)
        return Taken(data, "as in the reference", seconds)


@dataclass(eq=False)
class ImageSource(Source):
    """Images that are there already."""

    name: str
    data: Dataset
    dataset: str = ""

    def __post_init__(self) -> None:
        self.data = self.data.to("cpu")

    @property
    def classes(self) -> tuple[int, ...]:
        return self.data.classes

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.data.class_names

    @property
    def about(self) -> dict[str, Any]:
        return {"images_hash": self.data.hash}

    def of_classes(self, classes: Sequence[int]) -> "ImageSource":
        """The images of these classes alone. Raises `UsageError` where there are no labels."""
        if self.data.labels is None:
            raise UsageError(f"{self.name} has no labels, so that its images of some classes cannot be told.")
        return replace(self, data=self.data.subset(torch.isin(self.data.labels, torch.tensor(classes))))

    def check(self, num_classes: int) -> None:
        highest = max(self.classes, default=-1)
        if highest >= num_classes:
            raise UsageError(
                f"{self.name} has the label {highest}, and the evaluator knows 0 to {num_classes - 1}: it is for "
                "another dataset. Name the dataset that the images are like with --data."
            )

    def take(
        self, n: int, reference_labels: Tensor, *, seed: int, progress: Callable[[float], None] | None = None
    ) -> Taken:
        start = time.perf_counter()
        if progress:
            progress(1.0)
        if len(self.data) <= n:
            return Taken(self.data, "the source's own", time.perf_counter() - start)
        indices = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(seed))[:n]
        counts = "a random part of the source's"
        if self.data.labels is not None:
            try:
                indices = stratified_indices(self.data.labels, class_counts(reference_labels, n), seed=seed)
                counts = "as in the reference"
            except DataError:  # too few of a class for that
                pass
        return Taken(self.data.subset(indices), counts, time.perf_counter() - start)


# Whatever holds or generates images; see `open_source`.
Scorable = str | Path | GenerativeModel | Images | Source


def options_of(model: GenerativeModel) -> dict[str, Any]:
    """The options that a model's `sample` has, in its order, with their defaults."""
    return {
        p.name: p.default
        for p in inspect.signature(model.sample).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }


def open_source(
    source: Scorable,
    *,
    name: str = "",
    device: str | torch.device = "cpu",
    data_dir: Path | str | None = None,
    batch_size: int = BATCH,
    sampling_options: dict[str, Any] | None = None,
    **how: Unpack[ConversionKeywords],
) -> Source:
    """Open whatever holds or generates images: a checkpoint (name, folder or file), a split of a dataset
    ("mnist:train"), a folder of images, an NPZ, CSV or IDX file (with :SPLIT where it has several), a model, a
    `Dataset`, or what `as_dataset` makes one of: arrays of images, or (images, labels or None).

    Raises `CheckpointError`, `DataError` or `UsageError` where it is none of them.
    """
    source = uncompiled(source)
    if isinstance(source, Source):
        return source
    if isinstance(source, GenerativeModel):
        return ModelSource(
            name or type(source).__name__, source.to(device), None, batch_size, dict(sampling_options or {})
        )
    if not isinstance(source, str | Path):
        data = as_dataset(source, name=name or "images")
        own = isinstance(source, Dataset)
        called = name or (f"{data.name}-{data.split}" if own else data.name)
        return ImageSource(called, data, data.name if own else "")
    text = str(source)
    place, colon, split = ("", "", "") if text.startswith(PREFIX) else text.rpartition(":")
    if not Path(text).exists() and is_named(place if colon else text):
        if not colon:
            raise UsageError(f"{text} is a dataset; say which part is to be scored: {text}:train or {text}:test.")
        data = load_data(place, split, data_dir=data_dir, **how)
        return ImageSource(name or f"{data.name}-{split}", data, data.name)
    if colon and not Path(text).exists() and Path(place).exists():
        found = load_images(place, split=split, data_dir=data_dir, **how)
        return ImageSource(name or f"{found.name}-{split}", found)
    try:
        path = find(source)
    except CheckpointNotFoundError as missing:
        if not Path(text).exists():
            raise CheckpointNotFoundError(
                f"{missing} Nor is it a file, a folder of images, or DATASET:SPLIT."
            ) from None
        found = load_images(source, data_dir=data_dir, **how)
        return ImageSource(name or found.name, found)
    if path.suffix != ".safetensors":  # `find` takes any file; what it holds decides
        found = load_images(source, data_dir=data_dir, **how)
        return ImageSource(name or found.name, found)
    model = load(path, device=device)
    called = name_of(path)
    return ModelSource(
        name or called or "checkpoint", model, read_checkpoint(path), batch_size, dict(sampling_options or {})
    )


def dataset_of(sources: Sequence[Source], *, by_name: bool = False) -> str:
    """The dataset to hold these against: that which they are of, else MNIST, for which `digits` stand.

    Raises `UsageError` where they are of several; and, unless the name will do, of one that cannot be found by it.
    """
    found = sorted({"mnist" if source.dataset == DIGITS else source.dataset for source in sources if source.dataset})
    if len(found) > 1:
        raise UsageError(f"These are of several datasets ({', '.join(found)}); name one with --data, or score apart.")
    if found and not by_name and not is_named(found[0]):
        raise UsageError(f"These are of {found[0]}, a custom dataset: name its path with --data.")
    return found[0] if found else "mnist"
