"""Where data comes from: the named datasets, found on disk or downloaded, and files and folders by their path."""

import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mnistgen.data import download as downloads
from mnistgen.data.convert import to_images
from mnistgen.data.dataset import LARGEST_CLASSES, Dataset, checked_labels, joined, same_length
from mnistgen.data.families import ALIASES, DIGITS, FAMILIES, Family
from mnistgen.data.known import require_known, shipped
from mnistgen.data.readers import (
    Npz,
    is_image,
    pick,
    pick_unlabelled,
    read_csv,
    read_idx,
    read_image,
)
from mnistgen.errors import DataError, DownloadError, UsageError, suggestion

SPLITS = ("train", "test", "all")


def data_folder(data_dir: Path | str | None = None) -> Path:
    """Where the named datasets are: `data_dir`, else $MNISTGEN_DATA, else the user's cache folder."""
    if data_dir is not None:
        return _expanded(data_dir)
    if os.environ.get("MNISTGEN_DATA"):
        return _expanded(os.environ["MNISTGEN_DATA"])
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mnistgen" / "data"


def load_data(
    source: str | Path = "mnist",
    split: str = "train",
    *,
    data_dir: Path | str | None = None,
    resize: bool = False,
    download: bool = True,
) -> Dataset:
    """A dataset by its name, or from a file or folder by its path.

    `split`: "train", "test", or "all" for both. A source that is not divided has its images under "train" and
    "all", and no "test". `resize` converts what is not 28x28 grayscale uint8, which is refused otherwise. A named
    dataset that is not in `data_folder(data_dir)` is downloaded to it where `download` allows.

    The number of classes is that of the named dataset, of the class folders, or one more than the highest label. An
    NPZ file may have an array of images (images, x, data, image, arr_0 or samples) and none of labels, and a folder
    pictures and no folders of them, which are read in the order of their names: such a dataset has no labels.

    Raises `UsageError` for a name or a split that does not exist, `DataError` for everything about the content.
    """
    _known_split(split)
    with _system_errors(source):
        return _load(_open(source, data_dir), source, split, resize, download)


def load_training_data(
    source: str | Path = "", *, data_dir: Path | str | None = None, resize: bool = False
) -> tuple[Dataset, str]:
    """The training images of `source`; without one, of MNIST, or of `digits` where MNIST is not to be had.

    Returns a sentence besides, empty but where it is `digits` for want of MNIST: that it is, why, and what to do.
    Raises as `load_data`; with a `source`, nothing takes its place.
    """
    try:
        return load_data(source or "mnist", data_dir=data_dir, resize=resize), ""
    except DownloadError:
        if source:
            raise
        folder = data_folder(data_dir) / FAMILIES["mnist"].folder / "raw"
        return load_data(DIGITS), (
            "MNIST is neither on disk nor to be downloaded, so this is `digits`, the synthetic digits that come with "
            f"mnistgen; to have MNIST, connect to the internet or put its files in {folder}, and see what is wrong "
            "with --data mnist."
        )


def load_images(
    source: str | Path,
    *,
    split: str = "",
    data_dir: Path | str | None = None,
    resize: bool = False,
    download: bool = True,
) -> Dataset:
    """What `load_data` reads, of a split that may be left out where there is only one; the rest is as there.

    Raises `UsageError` for a name or a split that does not exist, and where several splits are there and none is
    chosen; `DataError` for everything about the content.
    """
    if split:
        _known_split(split)
    with _system_errors(source):
        path = _expanded(source)
        if is_image(path) and path.is_file():
            raise DataError(
                f"{source} is a single picture, and a grid of images in one picture is not a set of images; "
                "give a folder of pictures, one for each image."
            )
        found = _open(source, data_dir)
        parts = _parts(found)
        if not split and len(parts) > 1:
            there = " and ".join(repr(part) for part in parts)
            raise UsageError(f"{source} has the splits {there}; choose one of them, or 'all' for both.")
        return _load(found, source, split or parts[0], resize, download)


def _known_split(split: str) -> None:
    if split not in SPLITS:
        raise UsageError(f"There is no split {split!r}. {suggestion(split, SPLITS)}")


def _there_is(split: str, parts: tuple[str, ...], source: str | Path) -> None:
    """Raise `DataError` where `split` is not to be had of a source with the splits `parts`."""
    if split != "all" and split not in parts and not (split == "train" and parts == ("all",)):
        there = "it is not divided into train and test" if parts == ("all",) else f"there is only {parts[0]!r}"
        raise DataError(f"{source} has no {split} split: {there}.")


def _load(found: "Source", source: str | Path, split: str, resize: bool, download: bool) -> Dataset:
    parts = _parts(found)
    _there_is(split, parts, source)
    read = found.unlabelled()
    if read is not None:
        return Dataset(read(resize), None, 1, found.name, "all")
    whole = split == "all" or parts == ("all",)
    wanted = parts if whole else (split,)
    return joined([found.read(part, resize, download) for part in wanted], "all" if whole else split)


def _parts(found: "Source") -> tuple[str, ...]:
    return ("all",) if found.unlabelled() is not None else found.splits


def available_splits(source: str | Path = "mnist", *, data_dir: Path | str | None = None) -> tuple[str, ...]:
    """("train", "test"), or ("all",) where the source is not divided; reads no images. Raises as `load_data`."""
    with _system_errors(source):
        return _parts(_open(source, data_dir))


@contextmanager
def _system_errors(source: str | Path) -> Iterator[None]:
    """What the system says against looking at a path, and the end of memory, become a `DataError`."""
    try:
        yield
    except OSError as error:
        place = error.filename or source
        raise DataError(f"{str(place)[:200]} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise DataError(f"{source}: there is not enough memory to read it.") from error


class Source(ABC):
    """Something that has one or more splits."""

    name: str
    splits: tuple[str, ...]

    @abstractmethod
    def read(self, split: str, resize: bool, download: bool) -> Dataset:
        """One of `splits`."""

    def unlabelled(self) -> Callable[[bool], Tensor] | None:
        """Where there are images and no labels, what reads them, `resize` -> (n, 1, 28, 28) uint8; else None."""
        return None


def _open(source: str | Path, data_dir: Path | str | None) -> Source:
    """The source that a name or a path means: a known name first, so that a folder called mnist hides nothing."""
    if isinstance(source, str):
        name = source.lower()
        name = ALIASES.get(name, name)
        if name in FAMILIES:
            return Named(name, FAMILIES[name], data_folder(data_dir))
        if name == DIGITS:
            return NpzArchive(DIGITS, shipped(Path(__file__).with_name(f"{DIGITS}.npz")))
    path = _expanded(source)
    if not path.exists():
        if isinstance(source, Path) or os.sep in source or "/" in source or path.suffix:
            raise DataError(f"{source}: there is no such file or folder.")
        kinds = [name for name in FAMILIES if name.startswith(f"{source.lower()}-")]
        hint = f"There are {', '.join(kinds)}." if kinds else suggestion(source, (*FAMILIES, DIGITS))
        raise UsageError(f"There is no dataset {source!r}, and no file or folder of that name. {hint}")
    if path.is_dir():
        idx = _idx_files(path) or _idx_files(path / "raw")
        return Idx(slug(path), idx) if idx else ImageFolder(slug(path), path)
    if path.suffix.lower() == ".csv":
        return Csv(slug(path), path)
    if path.suffix.lower() == ".npz":
        return NpzArchive(slug(path), path)
    return Idx(slug(path), {"all": (path, _labels_beside(path))})


def _expanded(path: Path | str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user; then ~name is a name like any other
        return Path(path)


def slug(path: Path) -> str:
    """A name for what is at `path`, of lower-case letters, digits and single hyphens: safe in file names."""
    name = path.resolve().name.removesuffix(".gz")
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64].strip("-") or "data"


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

    def read(self, split: str, resize: bool, download: bool) -> Dataset:
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
        data = _read_idx_pair(images, labels, resize, self.family, self.name, split)
        return require_known(data, self.family, images, labels)


# --- IDX by path ---


@dataclass(frozen=True)
class Idx(Source):
    """Files of images, each with its file of labels."""

    name: str
    files: Mapping[str, tuple[Path, Path]]

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.files)

    def read(self, split: str, resize: bool, download: bool) -> Dataset:  # noqa: ARG002
        images, labels = self.files[split]
        data = _read_idx_pair(images, labels, resize, _family_of(images), self.name, split)
        others = [_read_idx_labels(pair[1]) for part, pair in self.files.items() if part != split]
        # Both splits agree on the number of classes, though one may lack the last.
        if not data.class_names:
            data = replace(data, num_classes=max(data.num_classes, *(int(y.max()) + 1 for y in others), 1))
        return data


def _read_idx_pair(
    images_path: Path, labels_path: Path, resize: bool, family: Family | None, name: str, split: str
) -> Dataset:
    images = to_images(read_idx(images_path, (3, 4) if resize else (3,)), str(images_path), resize)
    labels = _read_idx_labels(labels_path, family)
    same_length(images, labels, str(images_path), str(labels_path))
    if family is None:
        return Dataset(images, labels, int(labels.max()) + 1, name, split)
    if family.transposed:
        images = images.transpose(2, 3).contiguous()
    return Dataset(images, labels, len(family.class_names), name, split, family.class_names)


def _read_idx_labels(path: Path, family: Family | None = None) -> Tensor:
    labels = read_idx(path, (1, 2))
    if labels.ndim == 2:  # QMNIST: class, NIST partition, writer, ...; one row an image
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


_IMAGES_NAME = re.compile(r"(?:.*[-_.])?(train|t10k|test)[-_.]images[-_.]idx3[-_.]ubyte(?:\.gz)?")


def _idx_files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The files of images in a folder by split, with those of their labels; empty where there are none."""
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return {}
    for path in sorted(folder.iterdir(), reverse=True):  # a plain file is taken before its .gz
        match = _IMAGES_NAME.fullmatch(path.name)
        if match and path.is_file():
            split = "train" if match[1] == "train" else "test"
            if split in found and found[split].name.removesuffix(".gz") != path.name:
                raise DataError(
                    f"{folder} holds more than one file of {split} images, {found[split].name} and {path.name}; "
                    "give the path of the one that is meant."
                )
            found[split] = path
    return {split: (found[split], _labels_beside(found[split])) for split in ("train", "test") if split in found}


def _labels_beside(images: Path) -> Path:
    """The file of labels that belongs to a file of images, by the names of the MNIST files."""
    name = images.name.removesuffix(".gz")
    if "images" not in name:
        if "labels" in name:
            raise DataError(f"{images} holds labels, by its name; give the file of images.")
        raise DataError(
            f"{images}: what it holds cannot be told from its name. A file of images is named like "
            "train-images-idx3-ubyte, with its labels in train-labels-idx1-ubyte; .csv, .npz and folders are read too."
        )
    base = name.replace("images", "labels")
    names = [base.replace("idx3", "idx1"), base.replace("idx3-ubyte", "idx2-int")]
    for candidate in names:
        path = downloads.plain_or_packed(images.with_name(candidate))
        if path is not None and path != images:
            return path
    raise DataError(f"{images}: its labels are missing; there is no {names[0]} (or {names[0]}.gz) beside it.")


# --- CSV, NPZ, folders ---


@dataclass(frozen=True)
class Csv(Source):
    """One table, label,pixel0,...,pixel783."""

    name: str
    path: Path
    splits: tuple[str, ...] = ("all",)

    def read(self, split: str, resize: bool, download: bool) -> Dataset:  # noqa: ARG002
        pixels, numbers = read_csv(self.path, resize)
        labels = checked_labels(numbers, str(self.path))
        return Dataset(to_images(pixels, str(self.path), resize), labels, int(labels.max()) + 1, self.name, split)


_NPZ_DIVIDED = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images_train", "labels_train")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels"), ("images_test", "labels_test")),
}
_NPZ_WHOLE = {"all": (("images", "labels"), ("x", "y"), ("data", "labels"), ("image", "label"))}
_NPZ_DIVIDED_NAMES = frozenset(name for pairs in _NPZ_DIVIDED.values() for pair in pairs for name in pair)
# Images without labels; np.savez calls arrays that were given no names arr_0, arr_1, ...
_NPZ_UNLABELLED = (*dict.fromkeys(images for images, _ in _NPZ_WHOLE["all"]), "arr_0", "samples")
# With one of these there may be labels, and to pass over them would be a silent loss: labels under a name that does
# not belong to that of the images, or the second of two arrays without names, as samplers write them.
_NPZ_LABELLED = _NPZ_DIVIDED_NAMES.union((labels for _, labels in _NPZ_WHOLE["all"]), ("arr_1",))


@dataclass(frozen=True)
class NpzArchive(Source):
    """Arrays of images and labels, with the number of classes and their names where the file says them."""

    name: str
    path: Path

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self._pairs(Npz.open(self.path)))

    def read(self, split: str, resize: bool, download: bool) -> Dataset:  # noqa: ARG002
        npz = Npz.open(self.path)
        pairs = self._pairs(npz)
        images_name, labels_name = pairs[split]
        images = _read_array(npz, images_name, resize)
        every = {part: self._labels(npz, name) for part, (_, name) in pairs.items()}
        same_length(images, every[split], f"{self.path}, array {images_name!r}", f"array {labels_name!r}")
        highest = max(int(labels.max()) for labels in every.values())
        num_classes = self._num_classes(npz, highest)
        return Dataset(images, every[split], num_classes, self.name, split, self._class_names(npz, num_classes))

    def unlabelled(self) -> Callable[[bool], Tensor] | None:
        npz = Npz.open(self.path)
        name = pick_unlabelled(npz, _NPZ_UNLABELLED, _NPZ_LABELLED)
        return None if name is None else partial(_read_array, npz, name)

    def _pairs(self, npz: Npz) -> dict[str, tuple[str, str]]:
        is_divided = any(name.lower() in _NPZ_DIVIDED_NAMES for name in npz.names)
        return pick(npz, _NPZ_DIVIDED if is_divided else _NPZ_WHOLE)

    def _labels(self, npz: Npz, name: str) -> Tensor:
        return checked_labels(npz.read(name), f"{self.path}, array {name!r}")

    def _num_classes(self, npz: Npz, highest: int) -> int:
        if "num_classes" not in npz.names:
            return highest + 1
        value = npz.read("num_classes")
        if value.size != 1 or value.dtype.kind not in "iu" or not highest < int(value.flat[0]) <= LARGEST_CLASSES:
            raise DataError(
                f"{self.path}, array 'num_classes': it must be one whole number in {highest + 1}..{LARGEST_CLASSES}."
            )
        return int(value.flat[0])

    def _class_names(self, npz: Npz, num_classes: int) -> tuple[str, ...]:
        if "class_names" not in npz.names:
            return ()
        value = npz.read("class_names")
        if value.dtype.kind != "U" or value.shape != (num_classes,):
            raise DataError(f"{self.path}, array 'class_names': it must be {num_classes} strings.")
        try:
            return tuple(str(name) for name in value.tolist())
        except ValueError as error:  # numbers that are no characters
            raise DataError(f"{self.path}, array 'class_names' is broken: {error}.") from error


def _read_array(npz: Npz, name: str, resize: bool) -> Tensor:
    return to_images(npz.read(name), f"{npz.path}, array {name!r}", resize)


@dataclass(frozen=True)
class ImageFolder(Source):
    """Pictures in one folder a class, with train/ and test/ above them or not.

    Folders named by whole numbers are the labels themselves; others are numbered in the order of their names.
    Pictures are in the order of their names over all classes together, so that numbered names keep an order in
    which the classes alternate.
    """

    name: str
    path: Path

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        there = tuple(split for split in ("train", "test") if (self.path / split).is_dir())
        return there or ("all",)

    def read(self, split: str, resize: bool, download: bool) -> Dataset:  # noqa: ARG002
        tops = {part: self.path if part == "all" else self.path / part for part in self.splits}
        classes = {part: _subfolders(top) for part, top in tops.items()}
        names = sorted({name for folders in classes.values() for name in folders})
        if not names:
            raise DataError(
                f"{self.path} holds neither IDX files (train-images-idx3-ubyte, ...) nor a folder of images for each "
                "class."
            )
        numbered = all(re.fullmatch(r"\d{1,9}", name, re.ASCII) for name in names)
        numbers = {name: int(name) if numbered else place for place, name in enumerate(names)}
        num_classes = max(numbers.values()) + 1
        if num_classes > LARGEST_CLASSES:
            raise DataError(f"{self.path}: class {num_classes - 1} is out of range 0..{LARGEST_CLASSES - 1}.")
        files = [
            (file.name, numbers[name], file)
            for name, folder in classes[split].items()
            for file in _listing(folder)
            if is_image(file)
        ]
        if not files:
            raise DataError(f"{tops[split]} holds no images: its {len(names)} class folders have no .png, .jpg, ...")
        files.sort()
        return Dataset(
            _read_pictures((file for _, _, file in files), resize),
            torch.from_numpy(np.array([number for _, number, _ in files], np.int64)),
            num_classes,
            self.name,
            split,
            () if numbered else tuple(names),
        )

    def unlabelled(self) -> Callable[[bool], Tensor] | None:
        """The pictures in the folder itself. Raises `DataError` where folders of pictures lie beside them."""
        tops = [self.path, *(self.path / split for split in self.splits if split != "all")]
        folders = [folder for top in tops for folder in _subfolders(top).values()]
        files = [file for file in _listing(self.path) if is_image(file) and not file.is_dir()]
        if not files and not folders:
            raise DataError(
                f"{self.path} holds no images; it may hold pictures (.png, .jpg, ...), a folder of pictures for each "
                "class, or IDX files (train-images-idx3-ubyte, ...). Of .csv and .npz files, give the path."
            )
        if not files:
            return None
        for folder in folders:
            if any(is_image(file) for file in _listing(folder)):
                raise DataError(
                    f"{self.path} holds pictures, such as {files[0].name}, and folders of pictures, such as "
                    f"{folder.relative_to(self.path)}: which are meant cannot be told. Move the one or the other out "
                    "of it."
                )
        return partial(_read_pictures, sorted(files, key=lambda file: file.name))


def _read_pictures(files: Iterable[Path], resize: bool) -> Tensor:
    return torch.cat([read_image(file, resize) for file in files])


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}.") from error


def _subfolders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in _listing(folder) if path.is_dir() and not path.name.startswith((".", "__"))}
