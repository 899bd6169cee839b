"""IDX, the format of the MNIST files (http://yann.lecun.com/exdb/mnist)."""

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np

from mnistgen.data.convert import Array
from mnistgen.data.readers.files import DEFLATE_RATIO, claimed_bytes, looks_like, opened, size_of, take, wrong_size
from mnistgen.errors import DataError

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path, axes: tuple[int, ...]) -> Array:
    """The array of an IDX file, plain or gzipped (by content, not by name), if it has one of `axes` many axes."""
    with opened(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        size = size_of(file)
        if not packed:
            return _array(path, file, axes, size)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _array(path, stream, axes, None, size * DEFLATE_RATIO)
        except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
            raise DataError(f"{path}: the gzip data is broken or cut short: {error}.") from error


def _array(
    path: Path, stream: io.BufferedIOBase, axes: tuple[int, ...], size: int | None, most: int | None = None
) -> Array:
    """`size`: bytes there are, where that is known; `most`: no more can come out of the stream."""
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _DTYPES or start[3] == 0:
        raise DataError(
            f"{path} is not an IDX file: {looks_like(start)}. Files of the types IDX (plain or .gz), .csv, .npz, .npy "
            "and .parquet, and folders of images, can be read."
        )
    dtype, ndim = np.dtype(_DTYPES[start[2]]), start[3]
    if ndim not in axes:
        wanted = " or ".join(map(str, axes))
        kind = {1: "labels", 3: "images"}.get(ndim, "something else")
        raise DataError(f"{path} holds {kind} (an array of {ndim} axes), where {wanted} axes are needed.")
    header = stream.read(4 * ndim)
    if len(header) < 4 * ndim:
        raise DataError(f"{path} ends within its header, after {4 + len(header)} bytes.")
    shape = struct.unpack(f">{ndim}I", header)
    claimed = claimed_bytes(str(path), shape, dtype)
    offset = 4 + 4 * ndim
    if size is not None and size != offset + claimed:
        wrong_size(str(path), shape, dtype, claimed, size - offset)
    if most is not None and claimed > most:
        wrong_size(str(path), shape, dtype, claimed, None)
    if size is None:
        data = take(stream, claimed, str(path), shape, dtype)
    else:
        data = bytearray(claimed)
        stream.readinto(data)
    return np.frombuffer(data, dtype).reshape(shape)
