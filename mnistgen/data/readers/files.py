"""Safe opening of files for the readers, and arrays of the size that their header claims."""

import io
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from mnistgen.errors import DataError

LARGEST_ARRAY = 4 * 2**30  # bytes of one array, unpacked
DEFLATE_RATIO = 1032  # no deflated byte unpacks to more
BLOCK = 2**20

_POINTER = b"version https://git-lfs"
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x93NUMPY": "a NumPy array",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF document",
    b"<": "a web page",
    b"{": "JSON",
    b"\xfd7zXZ": "xz",
}


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The regular file at `path`; what the system says against reading it becomes a `DataError` that names it.

    A Git LFS pointer, which stands where a file has not been fetched, is refused with the way to fetch it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device would block, or never end
            raise DataError(f"{path} is not a regular file.")
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise DataError(_pointer(path, file.read(1000)))
            file.seek(0)
            yield file
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise DataError(f"{path}: there is not enough memory to read it.") from error


def beginning(path: Path) -> bytes:
    """The first bytes of the file at `path`. Raises as `opened`."""
    with opened(path) as file:
        return file.read(16)


def size_of(file: io.BufferedReader) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def looks_like(start: bytes) -> str:
    """Describe what a file that begins with `start` seems to be, to end a sentence."""
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return f"it looks like {kind}"
    return f"it begins with the bytes {start[:4].hex(' ')}" if start else "it is empty"


def _pointer(path: Path, text: bytes) -> str:
    size = re.search(rb"size (\d{1,15})", text)
    held = f" of {int(size[1]):,} bytes" if size else ""
    return (
        f"{path} is a Git LFS pointer, which stands for a file{held} that has not been fetched: run `git lfs install` "
        "and `git lfs pull` in its repository, or download the file itself."
    )


def claimed_bytes(where: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of an array as its header describes it; refused where that is nothing, or more than the limit."""
    if min(shape, default=1) == 0:
        raise DataError(f"{where} is empty: its shape is {shape}.")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > LARGEST_ARRAY:
        raise DataError(
            f"{where}: the header claims {shape} {dtype}, {claimed:,} bytes; the limit is {LARGEST_ARRAY:,}."
        )
    return claimed


def take(
    stream: IO[bytes] | io.BufferedIOBase, claimed: int, where: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> bytearray:
    """Exactly `claimed` bytes, to the end of the stream; memory grows with what arrives, not with the claim."""
    data = bytearray()
    while block := stream.read(min(BLOCK, claimed + 1 - len(data))):
        data += block
    if len(data) != claimed:
        wrong_size(where, shape, dtype, claimed, len(data) if len(data) < claimed else None)
    return data


def wrong_size(where: str, shape: tuple[int, ...], dtype: np.dtype[Any], claimed: int, found: int | None) -> NoReturn:
    """Raise the `DataError` of an array that does not hold what its header claims."""
    if found is None:
        held = "a different number of bytes"
    elif found < claimed:
        held = f"only {found:,}: the file is cut short"
    else:
        held = f"{found:,}"
    raise DataError(f"{where}: the header claims {shape} {dtype.name}, {claimed:,} bytes, but it holds {held}.")
