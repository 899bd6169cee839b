"""Loading of data: the named datasets, found on disk or downloaded, and files and folders by their path."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import platformdirs

from mnistgen import hub
from mnistgen.data.binarised import binarised
from mnistgen.data.convert import BINARISATIONS, Binarisation, Conversion, ConversionKeywords
from mnistgen.data.dataset import Dataset, joined
from mnistgen.data.families import ALIASES, DIGITS, FAMILIES
from mnistgen.data.formats import (
    PART_OF,
    PARTS,
    Csv,
    Idx,
    ImageFolder,
    Named,
    Npy,
    NpzArchive,
    Parquet,
    PictureFile,
    Source,
    idx_files,
    labels_beside,
)
from mnistgen.data.known import shipped
from mnistgen.data.photographs import Steps
from mnistgen.data.readers import beginning, is_image, read_photograph
from mnistgen.errors import DataError, DownloadError, UsageError, suggestion

SPLITS = ("train", "validation", "test", "all")
LEFT_OUT = "its validation part is left out (the split 'validation' reads it)."


def data_folder(data_dir: Path | str | None = None) -> Path:
    """The folder of the named datasets: `data_dir`, else $MNISTGEN_DATA, else the user's cache folder."""
    if data_dir is not None:
        return _expanded(data_dir)
    if os.environ.get("MNISTGEN_DATA"):
        return _expanded(os.environ["MNISTGEN_DATA"])
    return _cache() / "data"


def _cache() -> Path:
    """mnistgen's folder in the user's cache; of a user without a home, as containers have them, one of the system's."""
    with suppress(RuntimeError):  # there is no home; versions before 4.4 give "~" back
        folder = platformdirs.user_cache_path("mnistgen", appauthor=False, opinion=False)
        if folder.parts[0] != "~":
            return folder
    return Path(tempfile.gettempdir()) / f"mnistgen-{os.getuid() if sys.platform != 'win32' else ''}"


def load_data(
    source: str | Path = "mnist",
    split: str = "train",
    *,
    data_dir: Path | str | None = None,
    download: bool = True,
    **how: Unpack[ConversionKeywords],
) -> Dataset:
    """A dataset by its name, from a file or folder by its path, or from Hugging Face's hub by its address, hf://.

    `split`: "train", "validation", "test", or "all" for every part. A source that is not divided has its images under
    "train" and "all". A named dataset that is not in `data_folder(data_dir)` is downloaded to it where `download`
    allows.

    Images of another size are refused, or resized with `resize=True`; so are values of no known range, which
    `stretch=True` maps to 0..255. `invert=True` exchanges black and white, and `photographs=True` makes pictures of ink
    on paper into MNIST's format. What was done, left out or looks odd is in the `notes` of the dataset.

    `binarise="static"` or `"threshold"` leaves black and white alone (`mnistgen.data.binarised`), and says so in the
    name of the dataset, by which it is read, too: "mnist-static".

    The number of classes is that of the named dataset, of the class folders, or one more than the highest label. Where
    there are images and no labels, in a file or in a folder of pictures, the dataset has none.

    Raises `UsageError` for a name or a split that does not exist, `DataError` for everything about the content.
    """
    _known_split(split)
    with _system_errors(source):
        return _load(_open(source, data_dir), source, split, Conversion(**how), download)


def load_training_data(
    source: str | Path = "", *, data_dir: Path | str | None = None, **how: Unpack[ConversionKeywords]
) -> tuple[Dataset, str]:
    """The training images of `source`; without one, of MNIST, or of `digits` where MNIST is not to be had.

    Returns a sentence besides, empty but where it is `digits` for want of MNIST: that it is, why, and what to do.
    Raises as `load_data`; with a `source`, nothing takes its place.
    """
    try:
        return load_data(source or "mnist", data_dir=data_dir, **how), ""
    except DownloadError:
        if source:
            raise
        folder = data_folder(data_dir) / FAMILIES["mnist"].folder / "raw"
        return load_data(DIGITS, binarise=how.get("binarise")), (
            "MNIST is neither on disk nor to be downloaded, so this is `digits`, the synthetic digits that come with "
            f"mnistgen; to have MNIST, connect to the internet or put its files in {folder}, and see what is wrong "
            "with --data mnist."
        )


def load_validation_data(
    source: str | Path, training: Dataset, *, data_dir: Path | str | None = None, **how: Unpack[ConversionKeywords]
) -> Dataset | None:
    """The validation part of `source`, of which `training` are the training images; None where there is none.

    Raises as `load_data`, and `DataError` where its labels are none that the training images could have.
    """
    if "validation" not in available_splits(source, data_dir=data_dir):
        return None
    found = load_data(source, "validation", data_dir=data_dir, **how)
    unlike = found.num_classes > training.num_classes or (found.labels is None) != (training.labels is None)
    if unlike or not {*found.classes} <= {*training.classes}:
        raise DataError(
            f"{source}: its validation part has labels that its training images lack, or none; take some of those for "
            "validation in its place: --validation 1000, say."
        )
    return found


def load_images(
    source: str | Path,
    *,
    split: str = "",
    data_dir: Path | str | None = None,
    download: bool = True,
    **how: Unpack[ConversionKeywords],
) -> Dataset:
    """Read what `load_data` reads, of a split that may be left out where there is only one; the rest is as there.

    Raises `UsageError` for a name or a split that does not exist, and where several splits are there and none is
    chosen; `DataError` for everything about the content.
    """
    if split:
        _known_split(split)
    with _system_errors(source):
        found = _open(source, data_dir)
        parts = found.splits
        if not split and len(parts) > 1:
            there = " and ".join(repr(part) for part in parts)
            raise UsageError(f"{source} has the splits {there}; choose one of them, or 'all' for all images.")
        return _load(found, source, split or parts[0], Conversion(**how), download)


def _known_split(split: str) -> None:
    if split not in SPLITS:
        raise UsageError(f"There is no split {split!r}. {suggestion(split, SPLITS)}")


def _load(found: Source, source: str | Path, split: str, how: Conversion, download: bool) -> Dataset:
    parts = found.splits
    if split != "all" and split not in parts and not (split == "train" and parts == ("all",)):
        there = f"there is only {parts[0]!r}" if len(parts) == 1 else f"there are {', '.join(parts)}"
        there = "it is not divided into train and test" if parts == ("all",) else there
        raise DataError(f"{source} has no {split} split: {there}.")
    if how.photographs and not isinstance(found, PictureFile | ImageFolder | Parquet):
        raise UsageError(f"{source} holds no files of pictures, so there are no photographs; leave out --photographs.")
    whole = split == "all" or parts == ("all",)
    wanted = parts if whole else (split,)
    data = joined([found.read(part, how, download) for part in wanted], "all" if whole else split)
    notes = list(data.notes)
    if split == "train" and "validation" in parts:
        notes.append(f"{source}: {LEFT_OUT}")
    absent = sorted({*range(data.num_classes)} - {*data.classes}) if data.labels is not None else []
    if absent:
        names = ", ".join(data.class_name(label) for label in absent[:10]) + (", ..." if len(absent) > 10 else "")
        notes.append(f"{source}: {len(absent)} of {data.num_classes} classes have no images: {names}.")
    data = replace(data, notes=tuple(dict.fromkeys(notes))) if tuple(notes) != data.notes else data
    return binarised(data, how.binarise) if how.binarise else data


def dataset_name(source: str | Path, *, data_dir: Path | str | None = None) -> str:
    """The name of the dataset that `load_data` reads; reads no images. Raises as it."""
    with _system_errors(source):
        return _open(source, data_dir).name


def available_splits(source: str | Path = "mnist", *, data_dir: Path | str | None = None) -> tuple[str, ...]:
    """("train", "test"), say, or ("all",) where the source is not divided; reads no images. Raises as `load_data`."""
    with _system_errors(source):
        return _open(source, data_dir).splits


def is_picture(source: str | Path) -> bool:
    """Whether `source` is the path of a single picture."""
    path = _expanded(source)
    return is_image(path) and path.is_file()


def photograph_steps(source: str | Path, split: str = "train", most: int = 8) -> list[Steps]:
    """The steps of a photograph, or of the first of a folder of them, to MNIST's format. Raises as `load_data`."""
    with _system_errors(source):
        found = _open(source, None)
        if isinstance(found, PictureFile):
            return [read_photograph(found.path)]
        if not isinstance(found, ImageFolder):
            raise DataError(f"{source} is neither a picture nor a folder of pictures, so there are no photographs.")
        files = found.pictures(split if split in found.splits else found.splits[0])
        return [read_photograph(file) for file in files[:most]]


@contextmanager
def _system_errors(source: str | Path) -> Iterator[None]:
    """Turn what the system says against looking at a path, and the end of memory, into a `DataError`."""
    try:
        yield
    except OSError as error:
        place = error.filename or source
        raise DataError(f"{str(place)[:200]} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise DataError(f"{source}: there is not enough memory to read it.") from error


def _open(source: str | Path, data_dir: Path | str | None) -> Source:
    """The source that a name or a path means: a known name first, so that a folder called mnist hides nothing."""
    if isinstance(source, str):
        name = source.lower()
        name = ALIASES.get(name, name)
        if name in FAMILIES:
            return Named(name, FAMILIES[name], data_folder(data_dir))
        if name == DIGITS:
            return NpzArchive(DIGITS, shipped(Path(__file__).with_name(f"{DIGITS}.npz")))
        base, _, way = name.rpartition("-")
        if way in BINARISATIONS and (base in FAMILIES or base == DIGITS):
            return _Binarised(_open(base, data_dir), way)
        if hub.is_address(source):
            address = hub.Address.of(source)
            return Parquet(slug(Path(address.repository)), _parquet_files(hub.fetch_tables(address, DataError)))
    path = _expanded(source)
    if not path.exists():
        if isinstance(source, Path) or os.sep in source or "/" in source or path.suffix:
            raise DataError(f"{source}: there is no such file or folder.")
        kinds = [name for name in FAMILIES if name.startswith(f"{source.lower()}-")]
        hint = f"There are {', '.join(kinds)}." if kinds else suggestion(source, (*FAMILIES, DIGITS))
        raise UsageError(f"There is no dataset {source!r}, and no file or folder of that name. {hint}")
    return _folder(path) if path.is_dir() else _file(path)


class _Binarised(Source):
    """A named dataset in black and white: what `binarise` makes of it, under the name that it then has."""

    def __init__(self, inner: Source, how: Binarisation) -> None:
        self.inner, self.how = inner, how
        self.name, self.splits = f"{inner.name}-{how}", inner.splits

    def read(self, split: str, how: Conversion, download: bool) -> Dataset:
        return binarised(self.inner.read(split, how, download), self.how)


def _folder(path: Path) -> Source:
    idx = idx_files(path) or idx_files(path / "raw")
    if idx:
        return Idx(slug(path), idx)
    tables = _parquet_files(path) or _parquet_files(path / "data")
    return Parquet(slug(path), tables) if tables else ImageFolder(slug(path), path)


def _parquet_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The tables in a folder as hubs lay them out, train-00000-of-00001.parquet, by split."""
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted(folder.glob("*.parquet")) if folder.is_dir() else ():
        part = PART_OF.get(re.split(r"[-_.]", path.name.lower())[0], "all")
        found[part] = (*found.get(part, ()), path)
    if "all" in found and len(found) > 1:
        raise DataError(f"{folder}: {found['all'][0].name} belongs to neither a train nor a test part; give one path.")
    return {part: found[part] for part in (*PARTS, "all") if part in found}


def _file(path: Path) -> Source:
    """Tell by the ending of its name, and by its content where that says nothing."""
    suffix, start = path.suffix.lower(), beginning(path)
    if suffix == ".csv":
        return Csv(slug(path), path)
    if suffix == ".npz":
        return NpzArchive(slug(path), path)
    if suffix == ".npy" or start.startswith(b"\x93NUMPY"):
        return Npy(slug(path), path)
    if suffix in (".parquet", ".pq") or start.startswith(b"PAR1"):
        return Parquet(slug(path), {"all": (path,)})
    if is_image(path):
        return PictureFile(slug(path), path)
    return Idx(slug(path), {"all": (path, labels_beside(path))})


def _expanded(path: Path | str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user; then ~name is a name like any other
        return Path(path)


def slug(path: Path) -> str:
    """A name for what is at `path`, of lower-case letters, digits and single hyphens: safe in file names."""
    name = path.resolve().name.removesuffix(".gz")
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64].strip("-") or "data"
