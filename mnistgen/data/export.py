"""Writing images in the formats that `load_data` reads; a dataset comes back with the same hash, and is written whole.

What is written comes in pieces, so that what is sampled while it is written need not fit into memory.
"""

import itertools
import json
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from mnistgen.data.convert import SIDE, Array
from mnistgen.data.dataset import Dataset
from mnistgen.errors import DataError, UsageError, suggestion
from mnistgen.files import atomic_file, atomic_folder
from mnistgen.limits import require_disk

CLASSES = "classes.txt"  # in a folder of pictures by class: the names of the classes, one per line, in their order
PIECE = 1000  # images of a dataset written at a time
STDOUT = Path("-")  # stands for standard output
# Bytes of an image on disk, about: NPZ as digits compress, the shortest CSV, PNG as the blocks of a file system.
SIZES = {"npz": 150, "csv": 2 * SIDE**2, "png": 4096, "idx": SIDE**2 + 1}


@dataclass(frozen=True)
class ImageStream:
    """Images that come in pieces, with or without labels. Each call of `images` or `labels` begins anew."""

    images: Callable[[], Iterator[Tensor]]  # (b, 1, 28, 28) uint8 on the CPU each
    labels: Callable[[], Iterator[Tensor]] | None  # (b,) int64 on the CPU, of the same pieces
    n: int
    num_classes: int
    name: str
    class_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset) -> "ImageStream":
        """The images of a dataset."""
        here = dataset.to("cpu")
        labels = here.labels
        return cls(
            lambda: iter(here.images.split(PIECE)),
            None if labels is None else lambda: iter(labels.split(PIECE)),
            len(here),
            here.num_classes,
            here.name,
            here.class_names,
        )


def export_data(
    data: Dataset | ImageStream,
    path: Path,
    format: str,  # noqa: A002
    *,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write `data` to `path`: a file for npz and csv, or `-` for standard output; a folder for png and idx.

    `provenance`, such as the command and the seed, goes into the array `provenance` of an NPZ file or the file
    provenance.json of a folder, as JSON; the layout of CSV has no place for it.

    Raises `UsageError` for a format that does not exist, or more than fits on the disk, `DataError` where the data do
    not fit the format, and `MnistgenError` where `path` cannot be written or is a folder that holds something.
    """
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}. {suggestion(format, FORMATS)}")
    stream = ImageStream.of(data) if isinstance(data, Dataset) else data
    if stream.n == 0:
        raise DataError(f"{stream.name} holds no images; there is nothing to export.")
    if path == STDOUT:
        if format not in ("npz", "csv"):
            raise UsageError(f"{format} is a folder of files, which standard output cannot hold; write npz or csv.")
        if format == "npz" and sys.stdout.isatty():
            raise UsageError("An npz would fill the terminal with bytes; send it on: ... > digits.npz")
    else:
        if format in ("npz", "csv") and path.suffix.lower() != f".{format}":
            raise UsageError(f"{path}: a file in the format {format} is named with .{format} at the end.")
        require_disk(stream.n * SIZES[format], path.parent, f"{path}: {stream.n} images")
    FORMATS[format](stream, path, json.dumps(dict(provenance), indent=2) if provenance else "")


@contextmanager
def _output(path: Path) -> Iterator[BinaryIO]:
    """A file that is there when it is whole, or standard output."""
    if path == STDOUT:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        yield file


def _write_npz(stream: ImageStream, path: Path, provenance: str) -> None:
    with _output(path) as output, zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        _write_array(archive, "images", (stream.n, SIDE, SIDE), "|u1", stream.images())
        if stream.labels is not None:
            _write_array(archive, "labels", (stream.n,), "<i8", stream.labels())
            _write_whole(archive, "num_classes", np.array(stream.num_classes))
        if stream.class_names:
            _write_whole(archive, "class_names", np.array(stream.class_names))
        if provenance:
            _write_whole(archive, "provenance", np.array(provenance))


def _write_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: str, pieces: Iterator[Tensor]
) -> None:
    """An array of known shape, written as its rows come."""
    with archive.open(_member(name), "w", force_zip64=True) as file:
        header = {"descr": kind, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(piece.numpy().astype(kind, copy=False).tobytes())


def _write_whole(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    with archive.open(_member(name), "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))  # a fixed date, so that equal data make equal files
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _write_csv(stream: ImageStream, path: Path, provenance: str) -> None:  # noqa: ARG001
    words = np.array([str(value) for value in range(256)])
    titles = [f"pixel{k}" for k in range(SIDE * SIDE)]
    with _output(path) as output:
        output.write((",".join(titles if stream.labels is None else ["label", *titles]) + "\n").encode("ascii"))
        labels = itertools.repeat(None) if stream.labels is None else stream.labels()
        for images, y in zip(stream.images(), labels):  # noqa: B905  nothing, again and again, has no length
            rows = [",".join(row) for row in words[images.flatten(1).numpy()]]
            if y is not None:
                rows = [f"{label},{row}" for label, row in zip(y.tolist(), rows, strict=True)]
            output.writelines(f"{row}\n".encode("ascii") for row in rows)


def _write_png(stream: ImageStream, path: Path, provenance: str) -> None:
    """One folder a class, empty classes too, or one in all without labels; a picture's name is its place.

    The folders have the names of the classes, where those can be names of folders, and classes.txt their order.
    labels.csv lists the pictures in order, for tools that do not take the class from the folder.
    """
    width, place = len(str(stream.n - 1)), 0
    with atomic_folder(path) as temporary:
        _write_provenance(temporary, provenance)
        if stream.labels is None:
            for images in stream.images():
                for image in images.squeeze(1).numpy():
                    Image.fromarray(image).save(temporary / f"{place:0{width}}.png")
                    place += 1
            return
        folders = [str(number) for number in range(stream.num_classes)]
        if _are_folders(stream.class_names):
            folders = list(stream.class_names)
            (temporary / CLASSES).write_text("".join(f"{name}\n" for name in folders), encoding="utf-8")
        for folder in folders:
            (temporary / folder).mkdir()
        with (temporary / "labels.csv").open("w", encoding="utf-8") as table:
            table.write("file,label\n")
            for images, y in zip(stream.images(), stream.labels(), strict=True):
                for image, label in zip(images.squeeze(1).numpy(), y.tolist(), strict=True):
                    name = f"{folders[label]}/{place:0{width}}.png"
                    Image.fromarray(image).save(temporary / name)
                    table.write(f"{name},{label}\n")
                    place += 1


def _are_folders(names: Sequence[str]) -> bool:
    """Whether these can be the names of folders, on any system, and none reads as the number of a class."""
    usable = all(re.fullmatch(r"\w[\w .+-]{0,60}", name) and not name.endswith((" ", ".")) for name in names)
    numbers = any(name.isdecimal() for name in names)
    return bool(names) and usable and not numbers and len({name.lower() for name in names}) == len(names)


def _write_idx(stream: ImageStream, path: Path, provenance: str) -> None:
    if stream.num_classes > 256:
        raise DataError(f"{stream.name} has {stream.num_classes} classes; the labels of IDX files are bytes.")
    with atomic_folder(path) as temporary:
        _write_provenance(temporary, provenance)
        with (temporary / "train-images-idx3-ubyte").open("wb") as file:
            file.write(struct.pack(">4B3I", 0, 0, 8, 3, stream.n, SIDE, SIDE))
            file.writelines(images.numpy().tobytes() for images in stream.images())
        if stream.labels is not None:
            with (temporary / "train-labels-idx1-ubyte").open("wb") as file:
                file.write(struct.pack(">4BI", 0, 0, 8, 1, stream.n))
                file.writelines(y.numpy().astype(np.uint8).tobytes() for y in stream.labels())


def _write_provenance(folder: Path, provenance: str) -> None:
    if provenance:
        (folder / "provenance.json").write_text(f"{provenance}\n", encoding="utf-8")


FORMATS: dict[str, Callable[[ImageStream, Path, str], None]] = {
    "npz": _write_npz,
    "png": _write_png,
    "csv": _write_csv,
    "idx": _write_idx,
}
