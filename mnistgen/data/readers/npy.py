"""Arrays of NumPy: .npy, and .npz, a zip archive of them.

The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from mnistgen.data.convert import Array
from mnistgen.data.readers.files import DEFLATE_RATIO, claimed_bytes, looks_like, opened, size_of, take, wrong_size
from mnistgen.errors import DataError

MAGIC = b"\x93NUMPY"
LARGEST_HEADER = 10_000  # bytes; NumPy parses it as a literal, and never evaluates it
LARGEST_STRING = 10_000  # characters

_BROKEN = (
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


def read_npy(path: Path) -> Array:
    """The array of a .npy file. Raises `DataError` where it is broken, too large, or holds objects."""
    with opened(path) as file:
        return _array(str(path), file, size_of(file))


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

    def where(self, name: str) -> str:
        """The array in words, to begin a sentence."""
        return f"{self.path}, array {name!r}"

    def read(self, name: str) -> Array:
        """The array `name`. Raises `DataError` that names it where it is broken, too large, or holds objects."""
        where = self.where(name)
        with opened(self.path) as file, _zip(self.path, file) as archive:
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{where}: its compression is neither none nor deflate.")
            try:
                with archive.open(info) as stream:
                    return _array(where, stream, info.file_size, info.compress_size * DEFLATE_RATIO)
            except (*_BROKEN, OSError) as error:
                raise DataError(f"{where} is broken or cut short: {error}.") from error


@contextmanager
def _zip(path: Path, file: io.BufferedReader) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(file)
    except (*_BROKEN, OSError) as error:
        file.seek(0)
        raise DataError(f"{path} is not an NPZ file, or is cut short: {looks_like(file.read(4))}.") from error
    with archive:
        yield archive


def _array(where: str, stream: IO[bytes] | io.BufferedIOBase, size: int, most: int | None = None) -> Array:
    """`size`: bytes of header and content, as an archive's directory says, which may lie; `most`: there are no more."""
    shape, fortran, dtype, header = _header(where, stream)
    if dtype.hasobject:
        raise DataError(f"{where} holds Python objects, which are never unpickled.")
    if dtype.kind not in "biufU" or dtype.shape or not 0 < dtype.itemsize <= 4 * LARGEST_STRING:
        raise DataError(f"{where} holds no plain numbers.")
    if len(shape) > 4:
        raise DataError(f"{where}: an array of {len(shape)} axes holds neither images nor labels.")
    claimed = claimed_bytes(where, shape, dtype)
    if size - header != claimed:
        wrong_size(where, shape, dtype, claimed, size - header)
    if most is not None and claimed > most:
        wrong_size(where, shape, dtype, claimed, None)
    array = np.frombuffer(take(stream, claimed, where, shape, dtype), dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _header(where: str, stream: IO[bytes] | io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether the first axis varies fastest, dtype, and the length of the header in bytes."""
    start = stream.read(8)
    if len(start) < 8 or not start.startswith(MAGIC):
        raise DataError(f"{where} is not a NumPy array: {looks_like(start)}.")
    if start[6] not in (1, 2, 3):
        raise DataError(f"{where} is in version {start[6]} of the format; versions 1 to 3 are read.")
    width = 2 if start[6] == 1 else 4
    count = stream.read(width)
    length = int.from_bytes(count, "little")
    if length > LARGEST_HEADER:
        raise DataError(f"{where}: the header claims a length of {length:,} bytes; the limit is {LARGEST_HEADER:,}.")
    text = io.BytesIO(count + stream.read(length))
    # Version 3 differs from 2 in the encoding of the names of fields, and arrays with fields are refused.
    read = npy_format.read_array_header_1_0 if width == 2 else npy_format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a header of Python 2 is rewritten by a tokenizer, with a warning
            shape, fortran, dtype = read(text, max_header_size=LARGEST_HEADER)
    except Exception as error:  # NumPy's parser raises errors of any type on a broken header
        raise DataError(f"{where} holds no plain numbers: its header is broken.") from error
    if any(not 0 <= axis < 2**63 for axis in shape):
        raise DataError(f"{where}: the header claims the shape {str(shape)[:80]}.")
    return shape, fortran, dtype, 8 + width + length
