"""Parquet tables of images, as dataset hubs keep them; needs pyarrow, which the extra `parquet` installs."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistgen.data.convert import LARGEST_COUNT, Array, Conversion, Converted, to_images
from mnistgen.data.readers.csv import LABEL_NAMES
from mnistgen.data.readers.files import LARGEST_ARRAY, looks_like, opened
from mnistgen.data.readers.pictures import decode, together
from mnistgen.errors import DataError

ROWS = 1000  # rows in memory at a time, at most
LARGEST_BATCH = 2**30  # bytes of them, if each were as large as all that the file holds: a value may be repeated
LARGEST_PIXELS = 2**14  # numbers of one image
IMAGE_NAMES = ("image", "images", "img", "pixel_values", "pixels", "x", "data")


class ParquetTable(NamedTuple):
    """The images and labels of a Parquet file."""

    images: Converted
    labels: Array | None  # (n,) whole numbers
    class_names: tuple[str, ...]


def read_parquet(path: Path, how: Conversion) -> ParquetTable:
    """Images, as bytes of picture files or as lists of pixels, and their labels where there is a column of them.

    Raises `DataError` where pyarrow is missing, and for everything about the content.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{path}: reading Parquet needs pyarrow, which is not installed: pip install 'mnistgen[parquet]'."
        ) from error
    with opened(path) as source:
        start = source.read(4)
        try:
            with parquet.ParquetFile(source) as file:
                return _table(path, file, how)
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            found = looks_like(start) if start != b"PAR1" else str(error).splitlines()[0][:200]
            raise DataError(f"{path} cannot be read as Parquet: {found}.") from error


def _table(path: Path, file: Any, how: Conversion) -> ParquetTable:
    count, held = (
        file.metadata.num_rows,
        sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups)),
    )
    if not 0 < count <= LARGEST_COUNT or held > LARGEST_ARRAY:
        raise DataError(
            f"{path} holds {count} rows of {held:,} bytes; between 1 and {LARGEST_COUNT:,} rows are read, and at most "
            f"{LARGEST_ARRAY:,} bytes."
        )
    names = {name.lower(): name for name in file.schema_arrow.names}
    image = next((names[name] for name in IMAGE_NAMES if name in names), None)
    if image is None:
        raise DataError(
            f"{path} has the columns {', '.join(map(repr, list(names)[:8]))}; it needs 'image', and 'label' where the "
            "images have labels."
        )
    label = next((names[name] for name in LABEL_NAMES if name in names), None)
    rows = max(1, min(ROWS, LARGEST_BATCH // max(held, 1)))
    images = _images(path, count, _values(file, image, rows), how)
    if label is None:
        return ParquetTable(images, None, ())
    labels = np.array(list(_values(file, label, rows)))
    return ParquetTable(images, labels, _class_names(file, label))


def _values(file: Any, column: str, rows: int) -> Iterator[Any]:
    for batch in file.iter_batches(batch_size=rows, columns=[column]):
        yield from batch.column(0).to_pylist()


def _images(path: Path, count: int, values: Iterator[Any], how: Conversion) -> Converted:
    """Pictures as bytes, alone or with their path, or pixels as lists of numbers or of rows."""
    first = next(values)
    every = _chained(first, values)
    if isinstance(first, (dict, bytes)):
        return together((decode(_bytes(path, k, value), f"{path}, row {k}", how) for k, value in every), str(path), how)
    if not isinstance(first, list):
        raise DataError(f"{path}: the images are of {type(first).__name__}; bytes and lists of numbers are read.")
    return to_images(np.stack(list(_all_alike(path, count, every))), str(path), how)


def _chained(first: Any, rest: Iterator[Any]) -> Iterable[tuple[int, Any]]:
    yield 0, first
    yield from enumerate(rest, start=1)


def _bytes(path: Path, row: int, value: Any) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise DataError(f"{path}, row {row} holds no image: the bytes of a picture file are missing.")
    return content


def _all_alike(path: Path, count: int, values: Iterable[tuple[int, Any]]) -> Iterator[Array]:
    """The arrays of pixels. Raises `DataError` at the first of another shape, before they are many."""
    shape: tuple[int, ...] = ()
    for row, value in values:
        array = _pixels(path, row, value)
        shape = shape or array.shape
        if array.shape != shape or array.nbytes * count > LARGEST_ARRAY:
            raise DataError(f"{path}, row {row} holds {array.shape} {array.dtype.name}, and the first {shape}.")
        yield array


def _pixels(path: Path, row: int, value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.size > LARGEST_PIXELS:
        raise DataError(f"{path}, row {row} holds no pixels: {array.shape} {array.dtype.name}.")
    whole = array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255
    return array.astype(np.uint8 if whole else array.dtype)


def _class_names(file: Any, label: str) -> tuple[str, ...]:
    """The names that the hub's metadata gives to the classes."""
    try:
        about = json.loads(file.schema_arrow.metadata[b"huggingface"])
        names = about["info"]["features"][label]["names"]
    except (TypeError, KeyError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
