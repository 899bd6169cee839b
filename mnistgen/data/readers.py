"""Readers of files that may hold anything: every one of them either returns arrays or raises `DataError`.

What a header claims is held against a limit and against the bytes that are really there before memory is
allocated, and compressed bytes are unpacked as they are consumed, so a small file costs little whatever it says.
No file is unpickled, and no text of a file is evaluated.
"""

import gzip
import io
import math
import os
import re
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mnistgen.data.convert import LARGEST_SIDE, SIDE, Array, refused, to_images
from mnistgen.data.dataset import LARGEST_CLASSES
from mnistgen.errors import DataError, suggestion

LARGEST_ARRAY = 4 * 2**30  # bytes of one array, unpacked
LARGEST_LINE = 2**21  # bytes of a line of CSV
LARGEST_PICTURE = 2**26  # bytes of a file with one picture
LARGEST_HEADER = 2**14  # bytes of the header of an array in an NPZ file
DEFLATE_RATIO = 1032  # no deflated byte unpacks to more
BLOCK = 2**20

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x93NUMPY": "a NumPy array",
    b"%PDF": "a PDF document",
    b"<": "a web page",
    b"{": "JSON",
    b"\xfd7zXZ": "xz",
    b"version https://git-lfs": "a Git LFS pointer",
}


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The regular file at `path`; what the system says against reading it becomes a `DataError` that names it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device would block, or never end
            raise DataError(f"{path} is not a regular file.")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise DataError(f"{path}: there is not enough memory to read it.") from error


def looks_like(start: bytes) -> str:
    """What a file that begins with `start` seems to be, to end a sentence."""
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return f"it looks like {kind}"
    return f"it begins with the bytes {start[:4].hex(' ')}" if start else "it is empty"


# --- IDX: the format of the MNIST files (http://yann.lecun.com/exdb/mnist) ---

_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path, axes: tuple[int, ...]) -> Array:
    """The array of an IDX file, plain or gzipped (by content, not by name), if it has one of `axes` many axes."""
    with opened(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        if not packed:
            return _idx_array(path, file, axes, size)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _idx_array(path, stream, axes, None, size * DEFLATE_RATIO)
        except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
            raise DataError(f"{path}: the gzip data is broken or cut short: {error}.") from error


def _idx_array(
    path: Path, stream: io.BufferedIOBase, axes: tuple[int, ...], size: int | None, most: int | None = None
) -> Array:
    """`size`: bytes there are, where that is known; `most`: no more can come out of the stream."""
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _IDX_DTYPES or start[3] == 0:
        raise DataError(
            f"{path} is not an IDX file: {looks_like(start)}. Files of the types IDX (plain or .gz), .csv and .npz, "
            "and folders of images, can be read."
        )
    dtype, ndim = np.dtype(_IDX_DTYPES[start[2]]), start[3]
    if ndim not in axes:
        wanted = " or ".join(map(str, axes))
        kind = {1: "labels", 3: "images"}.get(ndim, "something else")
        raise DataError(f"{path} holds {kind} (an array of {ndim} axes), where {wanted} axes are needed.")
    header = stream.read(4 * ndim)
    if len(header) < 4 * ndim:
        raise DataError(f"{path} ends within its header, after {4 + len(header)} bytes.")
    shape = struct.unpack(f">{ndim}I", header)
    claimed = _claimed(str(path), shape, dtype)
    offset = 4 + 4 * ndim
    if size is not None and size != offset + claimed:
        _wrong_size(str(path), shape, dtype, claimed, size - offset)
    if most is not None and claimed > most:
        _wrong_size(str(path), shape, dtype, claimed, None)
    if size is None:
        data = _take(stream, claimed, str(path), shape, dtype)
    else:
        data = bytearray(claimed)
        stream.readinto(data)
    return np.frombuffer(data, dtype).reshape(shape)


def _claimed(where: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of an array as its header describes it; refused where that is nothing, or more than the limit."""
    if min(shape, default=1) == 0:
        raise DataError(f"{where} is empty: its shape is {shape}.")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > LARGEST_ARRAY:
        raise DataError(
            f"{where}: the header claims {shape} {dtype}, {claimed:,} bytes; the limit is {LARGEST_ARRAY:,}."
        )
    return claimed


def _take(
    stream: IO[bytes] | io.BufferedIOBase, claimed: int, where: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> bytearray:
    """Exactly `claimed` bytes, to the end of the stream; memory grows with what arrives, not with the claim."""
    data = bytearray()
    while block := stream.read(min(BLOCK, claimed + 1 - len(data))):
        data += block
    if len(data) != claimed:
        _wrong_size(where, shape, dtype, claimed, len(data) if len(data) < claimed else None)
    return data


def _wrong_size(where: str, shape: tuple[int, ...], dtype: np.dtype[Any], claimed: int, found: int | None) -> NoReturn:
    if found is None:
        held = "a different number of bytes"
    elif found < claimed:
        held = f"only {found:,}: the file is cut short"
    else:
        held = f"{found:,}"
    raise DataError(f"{where}: the header claims {shape} {dtype.name}, {claimed:,} bytes, but it holds {held}.")


# --- NPZ: a zip archive of arrays (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html) ---

_NPZ_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,  # an encrypted member
    NotImplementedError,  # a compression that zipfile does not know
    ValueError,
    UnicodeError,
    IndexError,
    OverflowError,
)


class Npz(NamedTuple):
    """The members of an NPZ file, read one at a time."""

    path: Path
    names: tuple[str, ...]

    @classmethod
    def open(cls, path: Path) -> "Npz":
        with opened(path) as file, _zip(path, file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if not names:
            raise DataError(f"{path} holds no arrays.")
        return cls(path, tuple(names))

    def read(self, name: str) -> Array:
        """The array `name`. Raises `DataError` that names it where it is broken, too large, or holds objects."""
        where = f"{self.path}, array {name!r}"
        with opened(self.path) as file, _zip(self.path, file) as archive:
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{where}: its compression is neither none nor deflate.")
            try:
                with archive.open(info) as stream:
                    return _npy_array(where, stream, info)
            except (*_NPZ_ERRORS, OSError) as error:
                raise DataError(f"{where} is broken or cut short: {error}.") from error


@contextmanager
def _zip(path: Path, file: io.BufferedReader) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(file)
    except (*_NPZ_ERRORS, OSError) as error:
        file.seek(0)
        raise DataError(f"{path} is not an NPZ file, or is cut short: {looks_like(file.read(4))}.") from error
    with archive:
        yield archive


def _npy_array(where: str, stream: IO[bytes] | io.BufferedIOBase, info: zipfile.ZipInfo) -> Array:
    start = stream.read(8)
    if len(start) < 8 or not start.startswith(b"\x93NUMPY"):
        raise DataError(f"{where} is not a NumPy array: {looks_like(start)}.")
    if start[6] not in (1, 2, 3):
        raise DataError(f"{where} is in version {start[6]} of the format; versions 1 to 3 are read.")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > LARGEST_HEADER:
        raise DataError(f"{where}: the header claims a length of {length:,} bytes; the limit is {LARGEST_HEADER:,}.")
    header = stream.read(length).decode("latin-1")
    descr = re.search(r"'descr'\s*:\s*'([<>|=]?(?:[biuf][1248]|U\d{1,4}))'", header)
    order = re.search(r"'fortran_order'\s*:\s*(True|False)", header)
    shape = re.search(r"'shape'\s*:\s*\(([\d\s,]*)\)", header)
    if not (descr and order and shape):
        kind = "Python objects, which are never unpickled" if re.search(r"'\|?O\d*'", header) else "no plain numbers"
        raise DataError(f"{where} holds {kind}.")
    try:
        dtype = np.dtype(descr[1])
    except TypeError as error:  # f1, for one
        raise DataError(f"{where}: there is no dtype {descr[1]!r}.") from error
    sizes = tuple(int(size) for size in re.findall(r"\d+", shape[1]))
    if len(sizes) > 4:
        raise DataError(f"{where}: an array of {len(sizes)} axes holds neither images nor labels.")
    claimed = _claimed(where, sizes, dtype)
    held = info.file_size - (8 + width + length)  # as the archive's directory says, which may be a lie too
    if held != claimed:
        _wrong_size(where, sizes, dtype, claimed, held)
    if claimed > info.compress_size * DEFLATE_RATIO:
        _wrong_size(where, sizes, dtype, claimed, None)
    array = np.frombuffer(_take(stream, claimed, where, sizes, dtype), dtype)
    return array.reshape(sizes, order="F" if order[1] == "True" else "C")


# --- CSV in the layout of Kaggle's digit recognizer: label,pixel0,...,pixel783, with or without that header ---

_NUMBER = re.compile(r"-?\d{1,9}(?:\.0*)?", re.ASCII)


class Columns(NamedTuple):
    """Where the label and the pixels are in a line, and what the columns are called."""

    names: tuple[str, ...]
    label: int  # its place in a line
    pixels: Array  # their places, (pixels,)
    highest: Array  # the highest value there may be, (columns,) int16


def read_csv(path: Path, resize: bool) -> tuple[Array, Array]:
    """(n, pixels) uint8 and (n,) int64. `DataError` names the line and the column of what is wrong.

    NumPy parses a block at a time; a block it stumbles over is read line by line, to take it or to say what is wrong.
    """
    tables: list[Array] = []
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_ARRAY:
            raise DataError(f"{path} has {size:,} bytes; the limit is {LARGEST_ARRAY:,}.")
        first = file.readline(LARGEST_LINE)
        text = first.removeprefix(b"\xef\xbb\xbf")  # the mark that spreadsheets write
        columns, header = _csv_columns(path, text, resize)
        if not header:
            file.seek(len(first) - len(text))
        line = 2 if header else 1
        while block := file.read(BLOCK):
            block += file.readline(LARGEST_LINE)
            if not block.endswith(b"\n"):
                if len(block) >= LARGEST_LINE:
                    raise DataError(f"{path}: a line after line {line} is longer than {LARGEST_LINE:,} bytes.")
                block += b"\n"
            table = _csv_numbers(block, columns)
            tables.append(_csv_lines(path, block, line, columns) if table is None else table)
            line += block.count(b"\n")
    labels = np.concatenate([table[:, columns.label] for table in tables] or [np.empty(0, np.int16)])
    if len(labels) == 0:
        raise DataError(f"{path} holds no images: there is no line {'after the header' if header else 'of numbers'}.")
    pixels = np.concatenate([table[:, columns.pixels].astype(np.uint8) for table in tables])
    return pixels, labels.astype(np.int64)


def _csv_columns(path: Path, first: bytes, resize: bool) -> tuple[Columns, bool]:
    """What the first line says, and whether it is a header."""
    if len(first) >= LARGEST_LINE:
        raise DataError(f"{path}, line 1 is longer than {LARGEST_LINE:,} bytes; {looks_like(first)}.")
    fields = _csv_fields(first)
    if not any(fields) or b"\0" in first:
        raise DataError(f"{path} is not a CSV file of images: {looks_like(first)}.")
    if re.match(r"[-+.\d]", fields[0], re.ASCII):
        names, header = ["label", *(f"pixel{k}" for k in range(len(fields) - 1))], False
    else:
        names, header = [field.lower() for field in fields], True
    if "label" not in names:
        raise DataError(
            f"{path}, line 1: the column 'label' is missing; the columns begin with {', '.join(fields[:3])[:60]!r}. "
            "The layout is label,pixel0,...,pixel783."
        )
    label = names.index("label")
    pixels = [index for index in range(len(names)) if index != label]
    if "pixel0" in names and header:  # by name, in whatever order; other names are taken in order (1x1, 1x2, ...)
        unknown = [names[index] for index in pixels if not re.fullmatch(r"pixel\d+", names[index])]
        if unknown:
            raise DataError(f"{path}, line 1: the column {unknown[0][:40]!r} is neither 'label' nor a pixel.")
        place = {name: index for index, name in enumerate(names)}
        expected = [f"pixel{k}" for k in range(len(pixels) if resize else max(len(pixels), SIDE * SIDE))]
        missing = next((name for name in expected if name not in place), None)
        if missing:
            raise DataError(f"{path}, line 1: the column {missing!r} is missing.")
        pixels = [place[name] for name in expected]
    side = math.isqrt(len(pixels))
    if side * side != len(pixels) or side == 0:
        raise DataError(
            f"{path}, line 1: there are {len(names)} columns; there must be {1 + SIDE * SIDE}, "
            "a label and the pixels of a 28x28 image."
        )
    if side != SIDE and not resize:
        raise refused(f"{path}, line 1", side, side, "grayscale")
    highest = np.full(len(names), 255, np.int16)
    highest[label] = LARGEST_CLASSES - 1
    return Columns(tuple(names), label, np.array(pixels), highest), header


def _csv_numbers(block: bytes, columns: Columns) -> Array | None:
    """Whole lines of numbers -> (lines, columns) int16, by NumPy's parser; None for anything it stumbles over."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # older versions of NumPy only warn of 5.5
            table = np.loadtxt(io.StringIO(block.decode("ascii")), np.int16, comments=None, delimiter=",", ndmin=2)
    except (ValueError, Warning):
        return None
    fits = table.shape[1] == len(columns.names) and (table >= 0).all() and (table <= columns.highest).all()
    return table if fits else None


def _csv_lines(path: Path, block: bytes, line: int, columns: Columns) -> Array:
    """The same for what people's tools write besides (quotes, 5.0), or the error that the block has."""
    rows = []
    for number, text in enumerate(block.split(b"\n"), start=line):
        if not text.strip():
            continue
        fields = _csv_fields(text)
        if len(fields) != len(columns.names):
            raise DataError(f"{path}, line {number} has {len(fields)} columns; there must be {len(columns.names)}.")
        row = []
        for field, name, highest in zip(fields, columns.names, columns.highest.tolist(), strict=True):
            if not _NUMBER.fullmatch(field):
                raise DataError(f"{path}, line {number}, column {name!r}: {field[:20]!r} is not a whole number.")
            value = int(float(field))
            if not 0 <= value <= highest:
                kind = "label" if highest != 255 else "pixel"
                raise DataError(
                    f"{path}, line {number}, column {name!r}: the {kind} {value} is out of range 0..{highest}."
                )
            row.append(value)
        rows.append(row)
    return np.array(rows, np.int16).reshape(-1, len(columns.names))


def _csv_fields(text: bytes) -> list[str]:
    return [field.strip().strip('"').strip() for field in text.decode("utf-8", "replace").split(",")]


# --- Image files ---

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm"}
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM")
_MODES = {"1": "1-bit", "L": "grayscale", "LA": "grayscale and alpha", "P": "palette", "RGB": "RGB", "RGBA": "RGBA"}


def is_image(path: Path) -> bool:
    """Whether the name is that of a picture."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def read_image(path: Path, resize: bool) -> Tensor:
    """One picture, (1, 1, 28, 28) uint8."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_PICTURE:
            raise DataError(f"{path} has {size:,} bytes; the limit for a picture is {LARGEST_PICTURE:,}.")
        data = file.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        w, h = image.size
        if max(w, h) > LARGEST_SIDE:
            raise DataError(
                f"{path}: the picture is {h}x{w} pixels; the largest that are read are {LARGEST_SIDE} a side."
            )
        if (w, h, image.mode) == (SIDE, SIDE, "L") and "transparency" not in image.info:
            array = np.array(image)
        elif not resize:
            raise refused(str(path), h, w, _MODES.get(image.mode, f"of mode {image.mode}"))
        elif image.mode.startswith("I"):  # 16-bit grayscale
            array = np.asarray(image).clip(0, 65535).astype(np.float32) / 65535
        else:
            plain = image.mode in ("1", "L") and "transparency" not in image.info
            array = np.asarray(image.convert("L" if plain else "RGBA"))
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of any type on a broken header
        unknown = isinstance(error, UnidentifiedImageError)
        found = looks_like(data[:4]) if unknown else str(error)
        if unknown and found.endswith(" image"):
            found = f"{found}, but its header is broken"
        raise DataError(f"{path} cannot be read as a picture: {found}.") from error
    return to_images(array[None], str(path), resize)


# --- Names of arrays ---


def pick(npz: Npz, wanted: Mapping[str, tuple[tuple[str, str], ...]]) -> dict[str, tuple[str, str]]:
    """For each split of `wanted`, the names of its images and labels in the file, by the first pair that is there.

    Raises `DataError` where one of a pair is missing, or there is no pair at all.
    """
    actual = {name.lower(): name for name in npz.names}
    found = {}
    for split, pairs in wanted.items():
        for images, labels in pairs:
            if images in actual and labels in actual:
                found[split] = (actual[images], actual[labels])
                break
    for split, pairs in wanted.items():
        if split in found:
            continue
        for images, labels in pairs:
            for there, missing in ((images, labels), (labels, images)):
                if there in actual and not any(actual[there] in pair for pair in found.values()):
                    raise DataError(
                        f"{npz.path} has the array {actual[there]!r} but no {missing!r}. "
                        f"{suggestion(missing, npz.names[:100])}"
                    )
    if found:
        return found
    raise DataError(f"{_arrays_of(npz)}; it needs 'images' and 'labels' (or x_train, y_train, ...).")


def pick_unlabelled(npz: Npz, images: tuple[str, ...], labelled: Collection[str]) -> str | None:
    """The name of the array of images in a file without labels; None where it has an array called as in `labelled`.

    Raises `DataError` where there is no array, or more than one, called as in `images`.
    """
    actual = {name.lower(): name for name in npz.names}
    if any(name in actual for name in labelled):
        return None
    found = [actual[name] for name in images if name in actual]
    if len(found) > 1:
        raise DataError(
            f"{npz.path} has more than one array of images, {found[0]!r} and {found[1]!r}; keep the one that is meant."
        )
    if not found:
        raise DataError(f"{_arrays_of(npz)}; it needs {images[0]!r} (or {', '.join(images[1:])}).")
    return found[0]


def _arrays_of(npz: Npz) -> str:
    return f"{npz.path} has the arrays {', '.join(repr(name[:40]) for name in npz.names[:8])}"
