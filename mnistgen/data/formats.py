"""Formats that a path or a name can have: datasets known by name, IDX files, tables, arrays and pictures, by their
parts."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnistgen.data import download as downloads
from mnistgen.data.convert import Conversion, to_images
from mnistgen.data.dataset import LARGEST_CLASSES, Dataset, checked_labels, joined, same_length
from mnistgen.data.families import FAMILIES, Family
from mnistgen.data.known import require_known
from mnistgen.data.readers import (
    Npz,
    is_image,
    read_csv,
    read_idx,
    read_npy,
    read_parquet,
    read_pictures,
)
from mnistgen.errors import DataError, suggestion

PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "t10k"),
}
PART_OF = {word: part for part, words in PARTS.items() for word in words}


class Source(ABC):
    """Something that has one or more splits."""

    name: str
    splits: tuple[str, ...]  # of "train", "validation" and "test", or "all" alone

    @abstractmethod
    def read(self, split: str, how: Conversion, download: bool) -> Dataset:
        """One of `splits`."""


# --- Named datasets ---


@dataclass(frozen=True)
class Named(Source):
    """One of the datasets that everybody means by its name, in the layout that torchvision keeps on disk."""

    name: str
    family: Family
    root: Path

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.family.files)

    def read(self, split: str, how: Conversion, download: bool) -> Dataset:
        folder = self.root / self.family.folder / "raw"
        names = self.family.files[split]
        paths = [downloads.plain_or_packed(folder / name) for name in names]
        if None in paths:
            if not download:
                missing = ", ".join(name for name, path in zip(names, paths, strict=True) if path is None)
                raise DataError(
                    f"{self.family.title} is not in {self.root}: {folder} lacks {missing}, and downloading is off. "
                    f"{downloads.ways_to_provide(self.family, folder)}"
                )
            downloads.download(self.family, folder, split)
            paths = [downloads.plain_or_packed(folder / name) for name in names]
        images, labels = (path or folder / name for path, name in zip(paths, names, strict=True))
        data = _read_idx_pair(images, labels, Conversion(resize=how.resize), self.family, self.name, split)
        require_known(data, self.family, images, labels)
        if not (how.invert or how.stretch):
            return data
        pixels, notes = to_images(data.images.numpy(), str(images), how)
        return replace(data, images=pixels, notes=notes)


# --- IDX by path ---


@dataclass(frozen=True)
class Idx(Source):
    """Files of images, each with its file of labels, where there is one."""

    name: str
    files: Mapping[str, tuple[Path, Path | None]]

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.files)

    def read(self, split: str, how: Conversion, download: bool) -> Dataset:  # noqa: ARG002
        images, labels = self.files[split]
        data = _read_idx_pair(images, labels, how, _family_of(images), self.name, split)
        if labels is None:
            beside = f"there is no {_names_of_labels(images.name)[0]} beside it"
            return replace(data, notes=(*data.notes, f"{images}: {beside}, so that these images have no labels."))
        others = [_read_idx_labels(other) for part, (_, other) in self.files.items() if part != split and other]
        # Both splits agree on the number of classes, though one may lack the last.
        if not data.class_names:
            data = replace(data, num_classes=max(data.num_classes, *(int(y.max()) + 1 for y in others), 1))
        return data


def _read_idx_pair(
    images_path: Path, labels_path: Path | None, how: Conversion, family: Family | None, name: str, split: str
) -> Dataset:
    images, notes = to_images(read_idx(images_path, (3, 4)), str(images_path), how)
    if family is not None and family.transposed:
        images = images.transpose(2, 3).contiguous()
    if labels_path is None:
        return Dataset(images, None, 1, name, split, notes=notes)
    labels = _read_idx_labels(labels_path, family)
    same_length(images, labels, str(images_path), str(labels_path))
    if family is None:
        return Dataset(images, labels, int(labels.max()) + 1, name, split, notes=notes)
    return Dataset(images, labels, len(family.class_names), name, split, family.class_names, notes)


def _read_idx_labels(path: Path, family: Family | None = None) -> Tensor:
    labels = read_idx(path, (1, 2))
    if labels.ndim == 2:  # QMNIST: class, NIST partition, writer, ...; one row per image
        labels = labels[:, 0]
    if family is None:
        return checked_labels(labels, str(path))
    return checked_labels(labels, str(path), len(family.class_names), family.first_label)


def _family_of(images: Path) -> Family | None:
    """EMNIST's files need turning upright wherever they lie; their names say what they are."""
    for family in FAMILIES.values():
        if family.transposed and any(images.name.removesuffix(".gz") == pair[0] for pair in family.files.values()):
            return family
    return None


_IMAGES_NAME = re.compile(rf"(?:.*[-_.])?({'|'.join(PART_OF)})[-_.]images[-_.]idx3[-_.]ubyte(?:\.gz)?")


def idx_files(folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """The files of images in a folder by split, with those of their labels, if any; empty where there are none."""
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return {}
    for path in sorted(folder.iterdir(), reverse=True):  # a plain file is taken before its .gz
        match = _IMAGES_NAME.fullmatch(path.name)
        if match and path.is_file():
            split = PART_OF[match[1]]
            if split in found and found[split].name.removesuffix(".gz") != path.name:
                raise DataError(
                    f"{folder} holds more than one file of {split} images, {found[split].name} and {path.name}; "
                    "give the path of the one that is meant."
                )
            found[split] = path
    return {split: (found[split], labels_beside(found[split])) for split in PARTS if split in found}


def labels_beside(images: Path) -> Path | None:
    """The file of labels that belongs to a file of images, by the names of the MNIST files; None where there is none.

    Raises `DataError` where the name of the file is none that images have.
    """
    if "images" not in images.name:
        if "labels" in images.name:
            raise DataError(f"{images} holds labels, by its name; give the file of images.")
        raise DataError(
            f"{images}: what it holds cannot be told from its name. A file of images is named like "
            "train-images-idx3-ubyte, with its labels in train-labels-idx1-ubyte; .csv, .npz, .npy, .parquet, "
            "pictures and folders are read too."
        )
    for name in _names_of_labels(images.name):
        path = downloads.plain_or_packed(images.with_name(name))
        if path is not None and path != images:
            return path
    return None


def _names_of_labels(images: str) -> tuple[str, str]:
    """The name of the labels of a file of images, in MNIST and in QMNIST."""
    base = images.removesuffix(".gz").replace("images", "labels")
    return base.replace("idx3", "idx1"), base.replace("idx3-ubyte", "idx2-int")


# --- Tables and arrays ---


def _dataset(
    images: Tensor, labels: Tensor | None, source: Source, split: str, notes: Sequence[str] = (), num_classes: int = 0
) -> Dataset:
    """A dataset whose classes are as many as its labels tell, where nothing else says it."""
    if labels is None:
        return Dataset(images, None, 1, source.name, split, notes=tuple(notes))
    return Dataset(images, labels, num_classes or int(labels.max()) + 1, source.name, split, notes=tuple(notes))


@dataclass(frozen=True)
class Csv(Source):
    """One table, label,pixel0,...,pixel783, or without the label."""

    name: str
    path: Path
    splits: tuple[str, ...] = ("all",)

    def read(self, split: str, how: Conversion, download: bool) -> Dataset:  # noqa: ARG002
        table = read_csv(self.path, how.resize)
        images, notes = to_images(table.pixels, str(self.path), how)
        notes = (*table.notes, *notes)
        if table.labels is None:
            return _dataset(images, None, self, split, notes)
        family = _family_of_table(self.path)
        if family is None:
            return _dataset(images, checked_labels(table.labels, str(self.path)), self, split, notes)
        images = images.transpose(2, 3).contiguous()
        labels = checked_labels(table.labels, str(self.path), len(family.class_names), family.first_label)
        notes += (f"{self.path}: turned upright, because the files of {family.title} hold images on their side.",)
        return Dataset(images, labels, len(family.class_names), self.name, split, family.class_names, notes)


def _family_of_table(path: Path) -> Family | None:
    """The tables of EMNIST, emnist-letters-train.csv and so on, hold the images as its other files do."""
    return FAMILIES.get(re.sub(r"[-_](train|test)\.csv$", "", path.name.lower())) if "emnist" in path.name else None


@dataclass(frozen=True)
class Npy(Source):
    """One array of images, with that of its labels where it lies beside it by its name."""

    name: str
    path: Path
    splits: tuple[str, ...] = ("all",)

    def read(self, split: str, how: Conversion, download: bool) -> Dataset:  # noqa: ARG002
        images, notes = to_images(read_npy(self.path), str(self.path), how)
        beside = self._labels_beside()
        if beside is None:
            return _dataset(images, None, self, split, notes)
        labels = checked_labels(read_npy(beside), str(beside))
        same_length(images, labels, str(self.path), str(beside))
        return _dataset(images, labels, self, split, (*notes, f"{self.path}: the labels are those of {beside}."))

    def _labels_beside(self) -> Path | None:
        stem = self.path.stem
        for word, other in (("images", "labels"), ("image", "label"), ("x", "y"), ("X", "Y"), ("X", "y")):
            beside = self.path.with_name(re.sub(rf"(?<![^_.-]){word}(?![^_.-])", other, stem) + self.path.suffix)
            if beside != self.path and beside.is_file():
                return beside
        return None


@dataclass(frozen=True)
class Parquet(Source):
    """Tables as dataset hubs keep them, one or more a split."""

    name: str
    files: Mapping[str, tuple[Path, ...]]

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.files)

    def read(self, split: str, how: Conversion, download: bool) -> Dataset:  # noqa: ARG002
        parts = []
        for path in self.files[split]:
            (images, notes), numbers, names = read_parquet(path, how)
            labels = None if numbers is None else checked_labels(numbers, f"{path}, the labels")
            data = _dataset(images, labels, self, split, notes, len(names))
            parts.append(replace(data, class_names=names) if labels is not None else data)
        return joined(parts, split)


class Names(NamedTuple):
    """The names of the arrays of images and of labels, "{}" being the name of the part."""

    images: str
    labels: str


_DIVIDED = (
    Names("x_{}", "y_{}"),
    Names("{}_x", "{}_y"),
    Names("{}_images", "{}_labels"),
    Names("images_{}", "labels_{}"),
    Names("{}_data", "{}_labels"),
    Names("{}_image", "{}_label"),
)
# np.savez calls arrays that were given no names arr_0, arr_1, ...
_IMAGES = ("images", "x", "data", "image", "arr_0", "samples")
_LABELS = ("labels", "y", "label", "target", "targets", "arr_1")
_ABOUT = ("num_classes", "class_names", "provenance", "seed", "seeds")


class Pair(NamedTuple):
    """The names of an array of images and of that of their labels, if there is one."""

    images: str
    labels: str | None


@dataclass(frozen=True)
class NpzArchive(Source):
    """Arrays of images and labels, with the number of classes and their names where the file says them."""

    name: str
    path: Path

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(_pairs(Npz.open(self.path)))

    def read(self, split: str, how: Conversion, download: bool) -> Dataset:  # noqa: ARG002
        npz = Npz.open(self.path)
        pairs = _pairs(npz)
        pair = pairs[split]
        images, notes = to_images(npz.read(pair.images), npz.where(pair.images), how)
        used = {name for found in pairs.values() for name in found}
        unused = [name for name in npz.names if name not in used and name.lower() not in _ABOUT]
        if unused:
            notes += (f"{self.path}: left out: {_some(unused, 'array', 'arrays')}.",)
        if pair.labels is None:
            return _dataset(images, None, self, split, notes)
        every = {
            part: checked_labels(npz.read(found.labels), npz.where(found.labels))
            for part, found in pairs.items()
            if found.labels is not None
        }
        same_length(images, every[split], npz.where(pair.images), f"array {pair.labels!r}")
        num_classes = self._num_classes(npz, max(int(labels.max()) for labels in every.values()))
        data = _dataset(images, every[split], self, split, notes, num_classes)
        return replace(data, class_names=self._class_names(npz, num_classes))

    def _num_classes(self, npz: Npz, highest: int) -> int:
        if "num_classes" not in npz.names:
            return highest + 1
        value = npz.read("num_classes")
        if value.size != 1 or value.dtype.kind not in "iu" or not highest < int(value.flat[0]) <= LARGEST_CLASSES:
            raise DataError(
                f"{npz.where('num_classes')}: it must be one whole number in {highest + 1}..{LARGEST_CLASSES}."
            )
        return int(value.flat[0])

    def _class_names(self, npz: Npz, num_classes: int) -> tuple[str, ...]:
        if "class_names" not in npz.names:
            return ()
        value = npz.read("class_names")
        if value.dtype.kind != "U" or value.shape != (num_classes,):
            raise DataError(f"{npz.where('class_names')}: it must be {num_classes} strings.")
        try:
            return tuple(str(name) for name in value.tolist())
        except ValueError as error:  # numbers that are no characters
            raise DataError(f"{npz.where('class_names')} is broken: {error}.") from error


def _pairs(npz: Npz) -> dict[str, Pair]:
    """The arrays of each part of an NPZ file. Raises `DataError` where they cannot be told."""
    actual = {name.lower(): name for name in npz.names}
    divided = {
        part: [Names(*(name.format(word) for name in names)) for word in words for names in _DIVIDED]
        for part, words in PARTS.items()
    }
    found = {part: pair for part, names in divided.items() if (pair := _pair(npz, actual, names))}
    if not found:
        whole = [Names(images, labels) for images in _IMAGES for labels in _LABELS]
        pair = _pair(npz, actual, whole)
        if pair is None:
            raise DataError(
                f"{npz.path} has the arrays {', '.join(repr(name[:40]) for name in npz.names[:8])}; it needs 'images', "
                "and 'labels' where they have labels (or x_train, y_train, ...)."
            )
        found = {"all": pair}
    for part, pair in found.items():
        if pair.labels is None and any(other.labels for other in found.values()):
            missing = next(names.labels for names in divided[part] if names.images == pair.images.lower())
            raise DataError(
                f"{npz.path} has the array {pair.images!r} but no {missing!r}. {_near(missing, npz, found)}"
            )
    return found


def _pair(npz: Npz, actual: Mapping[str, str], names: Sequence[Names]) -> Pair | None:
    """The one array of images of these names, and the one of labels; None where there is neither."""
    images = [actual[name] for name in dict.fromkeys(pair.images for pair in names) if name in actual]
    labels = [actual[name] for name in dict.fromkeys(pair.labels for pair in names) if name in actual]
    for several, kind in ((images, "images"), (labels, "labels")):
        if len(several) > 1:
            raise DataError(
                f"{npz.path} has more than one array of {kind}, {several[0]!r} and {several[1]!r}; keep the one that "
                "is meant."
            )
    if labels and not images:
        missing = next(pair.images for pair in names if pair.labels == labels[0].lower())
        raise DataError(f"{npz.path} has the array {labels[0]!r} but no {missing!r}. {_near(missing, npz, labels)}")
    return Pair(images[0], labels[0] if labels else None) if images else None


def _near(missing: str, npz: Npz, known: Mapping[str, Pair] | Sequence[str]) -> str:
    """The other array that may be meant, if any."""
    used = {name for pair in known.values() for name in pair} if isinstance(known, Mapping) else set(known)
    others = [name for name in npz.names[:100] if name not in used and name.lower() not in _ABOUT]
    return suggestion(missing, others) if others else "There is no other array."


# --- Pictures ---


@dataclass(frozen=True)
class PictureFile(Source):
    """A photograph of one digit."""

    name: str
    path: Path
    splits: tuple[str, ...] = ("all",)

    def read(self, split: str, how: Conversion, download: bool) -> Dataset:  # noqa: ARG002
        if not how.photographs:
            raise DataError(
                f"{self.path} is a single picture, and a grid of images in one picture is not a set of images; give a "
                "folder of pictures, one for each image, or add --photographs (photographs=True) if it is a photograph "
                "of one digit."
            )
        images, notes = read_pictures([self.path], str(self.path), how)
        return _dataset(images, None, self, split, notes)


@dataclass(frozen=True)
class ImageFolder(Source):
    """Pictures in one folder a class, or in no folder and without labels; with train/ and test/ above them or not.

    Folders named by whole numbers are the labels themselves; others are numbered in the order of their names, or of
    the lines of a classes.txt that names them all.
    Pictures are in the order of their names over all classes together, so that numbered names keep an order in
    which the classes alternate.
    """

    name: str
    path: Path

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self._tops())

    def read(self, split: str, how: Conversion, download: bool) -> Dataset:  # noqa: ARG002
        tops = self._tops()
        contents = {part: _contents(top) for part, top in tops.items()}
        there, top = contents[split], tops[split]
        names = _in_order(self.path, sorted({name for content in contents.values() for name in content.classes}))
        files = _labelled(self.path, top, there, names)
        numbers = {} if there.pictures else _numbers(self.path, names)
        images, said = read_pictures((file for file, _ in files), str(top), how)
        notes = (*self._left_out(tops), *there.left_out(top), *said)
        if there.pictures:
            return _dataset(images, None, self, split, notes)
        labels = torch.from_numpy(np.array([numbers[name] for _, name in files], np.int64))
        data = _dataset(images, labels, self, split, notes, max(numbers.values()) + 1)
        return data if _are_numbers(names) else replace(data, class_names=tuple(names))

    def pictures(self, split: str) -> list[Path]:
        """The files of a split, in the order of its images."""
        top = self._tops()[split]
        content = _contents(top)
        return [file for file, _ in _labelled(self.path, top, content, sorted(content.classes))]

    def _tops(self) -> dict[str, Path]:
        """The folder of each part, by the usual names; without a train or test among them, all are classes."""
        found: dict[str, Path] = {}
        for name, folder in _subfolders(self.path).items():
            part = PART_OF.get(name.lower())
            if part in found:
                raise DataError(
                    f"{self.path} has two folders of the {part} part, {found[part].name} and {name}; keep one of them."
                )
            if part:
                found[part] = folder
        if not {"train", "test"} & set(found):
            return {"all": self.path}
        return {part: found[part] for part in PARTS if part in found}

    def _left_out(self, tops: Mapping[str, Path]) -> list[str]:
        """The files beside the folders of the parts, which are not read."""
        if "all" in tops:
            return []
        content = _contents(self.path)
        left = [name for name in content.classes if self.path / name not in tops.values()]
        left += [file.name for file in content.pictures]
        notes = [f"{self.path}: left out, beside the folders of the parts: {_some(left)}."] if left else []
        return notes + content.left_out(self.path, folders=False)


class Contents(NamedTuple):
    """The content of a folder."""

    pictures: list[Path]
    classes: dict[str, list[Path]]  # the pictures in each folder
    others: list[str]  # files that are no pictures
    deeper: list[str]  # folders in the folders

    def left_out(self, top: Path, *, folders: bool = True) -> list[str]:
        """Sentences on what is not read."""
        notes = []
        if self.others:
            count = len(self.others)
            what = "1 file that is no picture" if count == 1 else f"{count} files that are no pictures"
            notes.append(f"{top}: left out: {what} ({_some(self.others)}).")
        empty = [name for name, files in self.classes.items() if not files and self.pictures]
        if folders and (empty or self.deeper):
            notes.append(f"{top}: left out: the folders {_some([*empty, *self.deeper])}.")
        return notes


_OURS = {"labels.csv", "provenance.json", "classes.txt"}  # what `mnistgen data export` writes beside the pictures


def _contents(top: Path) -> Contents:
    pictures, others = _files(top)
    content = Contents(pictures, {}, [name for name in others if name not in _OURS], [])
    for name, folder in _subfolders(top).items():
        content.classes[name], others = _files(folder)
        content.others.extend(f"{name}/{other}" for other in others)
        content.deeper.extend(f"{name}/{deeper}" for deeper in _subfolders(folder))
    return content


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """The pictures in a folder, and the names of its other files."""
    files = [path for path in _listing(folder) if not path.name.startswith(".") and not path.is_dir()]
    return [path for path in files if is_image(path)], [path.name for path in files if not is_image(path)]


def _labelled(path: Path, top: Path, content: Contents, names: Sequence[str]) -> list[tuple[Path, str]]:
    """The pictures in order, each with the name of its class, or with "" where there are none."""
    files = [(file, name) for name, files in content.classes.items() for file in files]
    if files and content.pictures:
        raise DataError(
            f"{top} holds pictures, such as {content.pictures[0].name}, and folders of pictures, such as "
            f"{files[0][1]}: which are meant cannot be told. Move the one or the other out of it."
        )
    files = files or [(file, "") for file in content.pictures]
    if not files and names:
        raise DataError(f"{top} holds no images: its {len(names)} class folders have no .png, .jpg, ...")
    if not files:
        raise DataError(
            f"{path} holds no images: it has neither IDX files (train-images-idx3-ubyte, ...) nor a folder of images "
            "for each class, nor images without labels; of .csv, .npz, .npy and .parquet files, give the path."
        )
    order = {name: place for place, name in enumerate(sorted(names, key=int if _are_numbers(names) else None))}
    return sorted(files, key=lambda pair: (pair[0].name, order.get(pair[1], 0)))


def _in_order(path: Path, names: list[str]) -> list[str]:
    """The names of the classes, in the order of the classes.txt that `mnistgen data export` writes, if it has all."""
    file = path / "classes.txt"
    if not file.is_file() or file.stat().st_size > 2**16:
        return names
    listed = file.read_text("utf-8", errors="replace").splitlines()
    return listed if set(names) <= set(listed) and len(set(listed)) == len(listed) else names


def _are_numbers(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"\d{1,9}", name, re.ASCII) for name in names)


def _numbers(path: Path, names: Sequence[str]) -> dict[str, int]:
    """The label of each folder."""
    numbered = _are_numbers(names)
    numbers = {name: int(name) if numbered else place for place, name in enumerate(names)}
    names_of: dict[int, str] = {}
    for name, number in numbers.items():
        if number in names_of:
            raise DataError(
                f"{path}: the folders {names_of[number]!r} and {name!r} are of the same class, {number}; move the "
                "pictures of the one into the other."
            )
        names_of[number] = name
    if max(names_of) >= LARGEST_CLASSES:
        raise DataError(f"{path}: class {max(names_of)} is out of range 0..{LARGEST_CLASSES - 1}.")
    return numbers


def _some(names: Sequence[str], one: str = "", several: str = "") -> str:
    """The first names of many, with their number where there are more."""
    shown = ", ".join(repr(name[:60]) for name in names[:3])
    kind = f"{one if len(names) == 1 else several} " if one else ""
    return f"{kind}{shown}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}.") from error


def _subfolders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in _listing(folder) if path.is_dir() and not path.name.startswith((".", "__"))}
