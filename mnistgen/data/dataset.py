"""The dataset, its split by seed, and the one codec between pixels and model space."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from mnistgen.data.convert import Array, to_images
from mnistgen.errors import DataError, MnistgenError
from mnistgen.limits import checked_seed
from mnistgen.model import IMAGE_SHAPE
from mnistgen.mosaic import by_class, grid, png

LARGEST_CLASSES = 1000  # labels from 0 to 999


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images held as one tensor, with or without labels. Raises `DataError` where something is not as said here.

    `Dataset.of` makes one of arrays of other types and shapes. Without labels there is one class, and a model of the
    images is unconditional. `images` and `labels` are all of it at once, as files have it; `data[i]` is one image and
    label as a model takes them, so that `torch.utils.data.DataLoader(data, batch_size=128)` yields `x, y` for `losses`.
    """

    images: Tensor  # (n, 1, 28, 28) uint8
    labels: Tensor | None  # (n,) int64 in [0, num_classes), or None; see `require_labels` and `y`
    num_classes: int  # one more than the highest label there could be; 1 without labels
    name: str  # short, safe in file names: "mnist", "emnist-letters", "digits-csv"
    split: str  # "train", "test", "all", "validation"
    class_names: tuple[str, ...] = ()  # one for each class, or none
    notes: tuple[str, ...] = ()  # sentences: what was done to the data while it was read

    def __post_init__(self) -> None:
        check_images(self.images, "images", where=f"{self.name}: ")
        if self.num_classes < 1:
            raise DataError(f"{self.name}: num_classes is {self.num_classes}; it must be at least 1.")
        if self.labels is None:
            if self.num_classes != 1 or self.class_names:
                raise DataError(f"{self.name}: there are {self.num_classes} classes, but no labels to tell them apart.")
            return
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found, n = f"{tuple(self.labels.shape)} {_dtype(self.labels)}", len(self.images)
            raise DataError(f"{self.name}: labels are {found}; {n} images need ({n},) int64.")
        wrong = ((self.labels < 0) | (self.labels >= self.num_classes)).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise DataError(
                f"{self.name}: label {int(self.labels[place])} of image {place} is not in 0..{self.num_classes - 1}."
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise DataError(f"{self.name}: {len(self.class_names)} class names for {self.num_classes} classes.")

    @classmethod
    def of(
        cls,
        images: Any,
        labels: Any = None,
        *,
        name: str = "images",
        split: str = "all",
        num_classes: int | None = None,
        class_names: Sequence[str] = (),
    ) -> Self:
        """A dataset of arrays: NumPy, torch (on any device), or lists; or of a torch dataset of (image, label), whose
        items are read once.

        `images`: (n, 28, 28), (n, 1, 28, 28), (n, 28, 28, 1) or (n, 784), of values as in files (`convert.to_images`).
        `labels`: (n,) or (n, 1) whole numbers of any type, or None. `num_classes` is that of `class_names`, else one
        more than the highest label. Raises `DataError` for everything else.
        """
        if isinstance(images, torch.utils.data.Dataset):
            images, labels = _apart(images, name)
        pixels, notes = to_images(_array(images, f"{name}: images"), f"{name}: images")
        if labels is None:
            return cls(pixels, None, 1, name, split, notes=notes)
        y = checked_labels(_array(labels, f"{name}: labels"), f"{name}: labels")
        same_length(pixels, y, f"{name}: images", "labels")
        classes = num_classes or len(class_names) or int(y.max()) + 1
        return cls(pixels, y, classes, name, split, tuple(class_names), notes)

    def __len__(self) -> int:
        return len(self.images)

    def _repr_png_(self) -> bytes:
        """Ten images of each class, for notebooks."""
        if self.labels is None or not len(self):
            return png(grid(self.images[:100] if len(self) else self.images.new_zeros(1, *IMAGE_SHAPE), 10), scale=2)
        return png(by_class(self.images, self.labels), scale=2)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image as a model takes it, (1, 28, 28) float32 in [-1, 1], and what a model is told of it (see `y`).

        Several at once are `subset`; pixels are `images`.
        """
        if not isinstance(index, SupportsIndex):
            raise TypeError(f"An index into a dataset is a whole number, not {index!r}; several images are `subset`.")
        return to_float(self.images[index]), 0 if self.labels is None else int(self.labels[index])

    @property
    def y(self) -> Tensor:
        """The labels as a model is told them, (n,) int64: an image's label, or 0 where there are no labels."""
        return self.images.new_zeros(len(self), dtype=torch.int64) if self.labels is None else self.labels

    def require_labels(self, why: str = "") -> Tensor:
        """The labels. Raises `DataError` where there are none; `why` ends its sentence: "to train a classifier"."""
        if self.labels is None:
            raise DataError(f"{self.name} has no labels, which are needed{f' {why}' if why else ''}.")
        return self.labels

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """The labels that have images, ascending; empty where there are no labels."""
        return () if self.labels is None else tuple(self.labels.unique().tolist())

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where the classes have no names."""
        return self.class_names[label] if self.class_names else str(label)

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the SHA-256 of shape, pixels and labels, in order; equal content has equal hashes."""
        return content_hash(self.images, self.labels)

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices`, (m,) int64 in any order, or a mask (n,) bool."""
        indices = indices.to(self.images.device)
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, images=self.images[indices], labels=labels)

    def to(self, device: torch.device | str) -> Self:
        """The same dataset on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        moved = replace(self, images=self.images.to(device), labels=labels)
        if "hash" in self.__dict__:  # known already, and the content is the same
            moved.__dict__["hash"] = self.hash
        return moved


def content_hash(images: Tensor, labels: Tensor | None) -> str:
    """The hash of a `Dataset` of these."""
    digest = hashlib.sha256(f"mnistgen {tuple(images.shape)}".encode())
    digest.update(images.cpu().contiguous().numpy().data)
    if labels is not None:
        digest.update(labels.cpu().contiguous().numpy().astype("<i8", copy=False).data)
    return digest.hexdigest()[:16]


# What the library's functions take for images: a `Dataset`, or what `as_dataset` makes one of.
Images = Dataset | Tensor | Array | tuple[Any, Any]


def as_dataset(data: Any, *, name: str = "images", num_classes: int | None = None) -> Dataset:
    """A `Dataset` as it is, or one of images alone, of (images, labels), labels None too, or of a torch dataset of
    (image, label): as `Dataset.of`, and raising as it does. `num_classes` is for labels that may lack the last ones.
    """
    if isinstance(data, Dataset):
        return data
    images, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    return Dataset.of(images, labels, name=name, num_classes=num_classes)


def _apart(data: "torch.utils.data.Dataset[Any]", name: str) -> tuple[Array, list[Any] | None]:
    """The images and the labels of a torch dataset, labels None where each is."""
    try:
        images, labels = zip(*(data[place] for place in range(len(data))), strict=True)  # type: ignore[arg-type]
        stacked = np.stack([_array(image, f"{name}: an image") for image in images])
    except (TypeError, ValueError) as error:  # no length, no pairs, or images of several sizes
        raise DataError(f"{name}: {type(data).__name__} is no dataset of (image, label): {error}.") from error
    return stacked, None if set(map(type, labels)) == {type(None)} else [_array(y, f"{name}: a label") for y in labels]


def joined(parts: Sequence[Dataset], split: str) -> Dataset:
    """Images of the same classes, one part after another, named as the first one and where that is.

    Raises `DataError` where some have labels and others have none.
    """
    first, *rest = parts
    if not rest:
        return first if first.split == split else replace(first, split=split)  # itself, with the hash it may know
    parts = [part.to(first.images.device) for part in parts]
    if len({part.labels is None for part in parts}) > 1:
        raise DataError(f"{first.name}: some of its parts have labels, and others have none.")
    return replace(
        first,
        images=torch.cat([part.images for part in parts]),
        labels=None if first.labels is None else torch.cat([part.y for part in parts]),
        num_classes=max(part.num_classes for part in parts),
        split=split,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def check_images(
    images: Tensor, what: str, *, least: int = 0, where: str = "", error: type[MnistgenError] = DataError
) -> None:
    """Raise `error` where `what` are not (n, 1, 28, 28) uint8, or fewer than `least`; `where` begins its sentence."""
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != IMAGE_SHAPE:
        found = f"{tuple(images.shape)} {_dtype(images)}"
        raise error(f"{where}{what} are {found}; they must be (n, 1, 28, 28) uint8, which `to_uint8` makes.")
    if len(images) < least:
        raise error(f"{where}too few images, {len(images)}, among {what}; give at least {least}.")


def checked_labels(labels: Array, where: str, classes: int = LARGEST_CLASSES, first: int = 0) -> Tensor:
    """Whole numbers (n,) or (n, 1) in first..first + classes - 1 -> (n,) int64 from zero."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "f" and (labels == labels.round()).all():  # whole numbers, as tables hold them
        labels = labels.clip(-1, first + classes).astype(np.int64)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        one_hot = " labels.argmax(1) makes them of one column per class." if labels.ndim == 2 else ""
        raise DataError(
            f"{where}: labels are {labels.shape} {labels.dtype.name}; they must be (n,) whole numbers.{one_hot}"
        )
    wrong = np.flatnonzero((labels < first) | (labels > first + classes - 1))
    if wrong.size:
        raise DataError(
            f"{where}: label {labels[wrong[0]]} of image {wrong[0]} is out of range; "
            f"labels are {first}..{first + classes - 1}."
        )
    return torch.from_numpy(labels.astype(np.int64) - first)


def same_length(images: Tensor, labels: Tensor, where_images: str, where_labels: str) -> None:
    """Raise `DataError` where there is not one label for each image."""
    if len(images) != len(labels):
        raise DataError(f"{where_images} holds {len(images)} images, but {where_labels} holds {len(labels)} labels.")


def _array(values: Any, where: str) -> Array:
    """NumPy's view of an array, a tensor or nested lists."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of unequal length; a sparse tensor
        raise DataError(f"{where} are no array: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} are {type(values).__name__} of {array.dtype.name}; they must be numbers.")
    return array


def train_validation_split(dataset: Dataset, validation: int = 5000, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Two disjoint parts, all but `validation` images and `validation` images, drawn by `seed`; order is kept.

    Raises `DataError` where no image would be left to train on.
    """
    n = len(dataset)
    if not 0 <= validation < n:
        raise DataError(
            f"{dataset.name}: {validation} validation images cannot be held out of {n}; "
            f"choose a number from 0 to {max(n - 1, 0)}."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(checked_seed(seed)))
    held_out = torch.zeros(n, dtype=torch.bool)
    held_out[order[:validation]] = True
    return dataset.subset(~held_out), replace(dataset.subset(held_out), split="validation")


def to_float(images: Tensor) -> Tensor:
    """Pixels to model space: uint8 in 0..255 -> float32 in [-1, 1], x / 127.5 - 1."""
    return images.div(127.5).sub_(1).to(torch.float32)  # one pass and one allocation fewer than converting first


def to_uint8(images: Tensor) -> Tensor:
    """Model space to pixels, clamped and rounded: the exact inverse of `to_float` on its values."""
    return ((images.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
