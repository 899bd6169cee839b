"""The dataset, its split by seed, and the one codec between pixels and model space."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mnistgen.errors import DataError
from mnistgen.model import IMAGE_SHAPE


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, held as one tensor. Raises `DataError` where shapes, dtypes or labels are not as said here."""

    images: Tensor  # (n, 1, 28, 28) uint8
    labels: Tensor  # (n,) int64 in [0, num_classes)
    num_classes: int
    name: str  # short, safe in file names: "mnist", "emnist-letters", "digits-csv"
    split: str  # "train", "test", "all", "validation"
    class_names: tuple[str, ...] = ()  # one for each class, or none

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != IMAGE_SHAPE:
            found = f"{tuple(images.shape)} {_dtype(images)}"
            raise DataError(f"{self.name}: images are {found}; a dataset holds (n, 1, 28, 28) uint8.")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            found = f"{tuple(labels.shape)} {_dtype(labels)}"
            raise DataError(f"{self.name}: labels are {found}; {len(images)} images need ({len(images)},) int64.")
        if self.num_classes < 1:
            raise DataError(f"{self.name}: num_classes is {self.num_classes}; it must be at least 1.")
        wrong = ((labels < 0) | (labels >= self.num_classes)).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise DataError(
                f"{self.name}: label {int(labels[place])} of image {place} is not in 0..{self.num_classes - 1}."
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise DataError(f"{self.name}: {len(self.class_names)} class names for {self.num_classes} classes.")

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the SHA-256 of shape, pixels and labels, in order; equal content has equal hashes."""
        return content_hash(self.images, self.labels)

    def subset(self, indices: Tensor) -> "Dataset":
        """The images at `indices`, (m,) int64 in any order, or a mask (n,) bool."""
        indices = indices.to(self.images.device)
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device | str) -> "Dataset":
        """The same dataset on another device."""
        moved = replace(self, images=self.images.to(device), labels=self.labels.to(device))
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
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
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
