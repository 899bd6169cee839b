"""CSV in the layout of Kaggle's digit recognizer: label,pixel0,...,pixel783, and its relatives.

There may be a header or none, and the label may be in any column, in the last, or in none.
"""

import io
import math
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnistgen.data.convert import SIDE, Array, refused
from mnistgen.data.dataset import LARGEST_CLASSES
from mnistgen.data.readers.files import BLOCK, LARGEST_ARRAY, looks_like, opened, size_of
from mnistgen.errors import DataError

LARGEST_LINE = 2**21  # bytes of a line
LABEL_NAMES = ("label", "labels", "class", "target", "y", "digit")

_WHOLE = re.compile(r"-?\d{1,9}(?:\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d{1,20}\.?\d{0,40}|\.\d{1,40})(?:[eE][-+]?\d{1,3})?", re.ASCII)


class Table(NamedTuple):
    """The content of a table of images."""

    pixels: Array  # (n, pixels) uint8, or float32 where they are decimals
    labels: Array | None  # (n,) int64
    notes: tuple[str, ...]


class Columns(NamedTuple):
    """The places of the label and the pixels in a line, and the names of the columns."""

    names: tuple[str, ...]
    label: int | None  # its place in a line
    pixels: Array  # their places, (pixels,)
    delimiter: str
    note: str = ""

    @property
    def highest(self) -> Array:
        """The highest value there may be in a table of whole numbers, (columns,)."""
        highest = np.full(len(self.names), 255, np.int16)
        if self.label is not None:
            highest[self.label] = LARGEST_CLASSES - 1
        return highest


def read_csv(path: Path, resize: bool) -> Table:
    """The images of a table and their labels. `DataError` names the line and the column of what is wrong.

    NumPy parses a block at a time; a block it stumbles over is read line by line, to take it or to say what is wrong.
    """
    tables: list[Array] = []
    with opened(path) as file:
        size = size_of(file)
        if size > LARGEST_ARRAY:
            raise DataError(f"{path} has {size:,} bytes; the limit is {LARGEST_ARRAY:,}.")
        first = file.readline(LARGEST_LINE)
        text = first.removeprefix(b"\xef\xbb\xbf")  # the mark that spreadsheets write
        columns, header = _columns(path, text, resize)
        if not header:
            file.seek(len(first) - len(text))
        decimals = None
        line = 2 if header else 1
        while block := file.read(BLOCK):
            block += file.readline(LARGEST_LINE)
            if not block.endswith(b"\n"):
                if len(block) >= LARGEST_LINE:
                    raise DataError(f"{path}: a line after line {line} is longer than {LARGEST_LINE:,} bytes.")
                block += b"\n"
            if decimals is None:
                decimals = _has_decimals(block, columns)
            table = _numbers(block, columns, decimals)
            tables.append(_lines(path, block, line, columns, decimals) if table is None else table)
            line += block.count(b"\n")
    table = np.concatenate(tables or [np.empty((0, len(columns.names)), np.int16)])
    if len(table) == 0:
        raise DataError(f"{path} holds no images: there is no line {'after the header' if header else 'of numbers'}.")
    if not header and columns.label is not None:
        columns = _where_the_label_is(path, columns, table)
    pixels = table[:, columns.pixels].astype(np.float32 if decimals else np.uint8)
    labels = None if columns.label is None else table[:, columns.label].astype(np.int64)
    return Table(pixels, labels, (f"{path}: {columns.note}.",) if columns.note else ())


def _columns(path: Path, first: bytes, resize: bool) -> tuple[Columns, bool]:
    """Read the first line, and tell whether it is a header."""
    if len(first) >= LARGEST_LINE:
        raise DataError(f"{path}, line 1 is longer than {LARGEST_LINE:,} bytes; {looks_like(first)}.")
    delimiter = max(",;\t", key=lambda mark: first.count(mark.encode()))
    fields = _fields(first, delimiter)
    if not any(fields) or b"\0" in first:
        raise DataError(f"{path} is not a CSV file of images: {looks_like(first)}.")
    if re.match(r"[-+.\d]", fields[0], re.ASCII):
        return _without_header(path, len(fields), delimiter, resize), False
    names = [field.lower() for field in fields]
    label = next((names.index(name) for name in LABEL_NAMES if name in names), None)
    if names[0] in ("", "unnamed: 0"):
        raise DataError(
            f"{path}, line 1: the first column has no name, as that of the line numbers that pandas writes; write the "
            "table with index=False, or remove the column."
        )
    pixels = [place for place in range(len(names)) if place != label]
    note = ""
    if label is None:
        if not all(re.fullmatch(r"(pixel|px?)?\d+(x\d+)?", names[place]) for place in pixels):
            raise DataError(
                f"{path}, line 1: the column 'label' is missing; the columns begin with "
                f"{', '.join(fields[:3])[:60]!r}. The layout is label,pixel0,...,pixel783."
            )
        note = "there is no column of labels, so the images have none"
    if "pixel0" in names:  # by name, in whatever order; other names are taken in order (1x1, 1x2, ...)
        unknown = [names[index] for index in pixels if not re.fullmatch(r"pixel\d+", names[index])]
        if unknown:
            raise DataError(f"{path}, line 1: the column {unknown[0][:40]!r} is neither 'label' nor a pixel.")
        place = {name: index for index, name in enumerate(names)}
        expected = [f"pixel{k}" for k in range(len(pixels) if resize else max(len(pixels), SIDE * SIDE))]
        missing = next((name for name in expected if name not in place), None)
        if missing:
            raise DataError(f"{path}, line 1: the column {missing!r} is missing.")
        pixels = [place[name] for name in expected]
    _square(path, len(names), len(pixels), resize)
    return Columns(tuple(names), label, np.array(pixels), delimiter, note), True


def _without_header(path: Path, count: int, delimiter: str, resize: bool) -> Columns:
    """Columns by their number: a square of pixels, or a label and one; which end it is at, the numbers will tell."""
    if count > 1 and math.isqrt(count) ** 2 == count:
        _square(path, count, count, resize)
        note = f"{count} columns without a header are the pixels of an image, so the images have no labels"
        return Columns(tuple(f"pixel{k}" for k in range(count)), None, np.arange(count), delimiter, note)
    _square(path, count, count - 1, resize)
    names = ("label", *(f"pixel{k}" for k in range(count - 1)))
    return Columns(names, 0, np.arange(1, count), delimiter)


def _square(path: Path, columns: int, pixels: int, resize: bool) -> None:
    side = math.isqrt(pixels)
    if side * side != pixels or side == 0:
        raise DataError(
            f"{path}, line 1: there are {columns} columns; there must be {1 + SIDE * SIDE}, "
            f"a label and the pixels of a 28x28 image, or {SIDE * SIDE} without labels."
        )
    if side != SIDE and not resize:
        raise refused(f"{path}, line 1", side, side, "grayscale")


def _where_the_label_is(path: Path, columns: Columns, table: Array) -> Columns:
    """The first column or the last, by what can be labels: a corner of the images is no set of them."""
    first, last = np.unique(table[:, 0]), np.unique(table[:, -1])
    ground = len(first) == 1 and first[0] in (0, 1, 255)  # one value, and it is black or white
    if _can_be_labels(last) and len(last) > 1 and (ground or not _can_be_labels(first)):
        count = len(columns.names)
        note = (
            f"without a header, the last column is taken as the label ({last[0]:g} to {last[-1]:g}), because the first "
            + (f"is {first[0]:g} in every line" if ground else f"has values from {first[0]:g} to {first[-1]:g}")
        )
        return columns._replace(label=count - 1, pixels=np.arange(count - 1), note=note)
    if not _can_be_labels(first):
        raise DataError(
            f"{path}: without a header, the labels cannot be told: neither the first column ({first[0]:g} to "
            f"{first[-1]:g}) nor the last ({last[0]:g} to {last[-1]:g}) looks like them. Add a first line that names "
            "the columns, label,pixel0,...,pixel783."
        )
    return columns


def _can_be_labels(values: Array) -> bool:
    """Whether distinct values look like classes: whole numbers from about zero, most of which occur."""
    whole = bool((values == np.floor(values)).all()) and float(values[0]) >= 0
    return whole and (len(values) == 1 or float(values[-1]) < max(20, 3 * len(values)))


def _has_decimals(block: bytes, columns: Columns) -> bool:
    """Whether the first line of numbers has one that is not whole; then all are read as decimals."""
    fields = next((_fields(line, columns.delimiter) for line in block.split(b"\n") if line.strip()), [])
    return any(_NUMBER.fullmatch(field) and not _WHOLE.fullmatch(field) for field in fields)


def _numbers(block: bytes, columns: Columns, decimals: bool) -> Array | None:
    """Whole lines of numbers -> (lines, columns), by NumPy's parser; None for anything it stumbles over."""
    dtype = np.float32 if decimals else np.int16
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # older versions of NumPy only warn of 5.5
            text = io.StringIO(block.decode("ascii"))
            table: Array = np.loadtxt(text, dtype, comments=None, delimiter=columns.delimiter, ndmin=2)
    except (ValueError, Warning):
        return None
    if table.shape[1] != len(columns.names):
        return None
    if not decimals:
        return table if (table >= 0).all() and (table <= columns.highest).all() else None
    fits = np.isfinite(table).all() and (columns.label is None or (table[:, columns.label] % 1 == 0).all())
    return table if fits else None


def _lines(path: Path, block: bytes, line: int, columns: Columns, decimals: bool) -> Array:
    """The same for what people's tools write besides (quotes, 5.0), or the error that the block has."""
    rows = []
    for number, text in enumerate(block.split(b"\n"), start=line):
        if not text.strip():
            continue
        fields = _fields(text, columns.delimiter)
        if len(fields) != len(columns.names):
            raise DataError(f"{path}, line {number} has {len(fields)} columns; there must be {len(columns.names)}.")
        row = []
        for place, (field, highest) in enumerate(zip(fields, columns.highest.tolist(), strict=True)):
            where = f"{path}, line {number}, column {columns.names[place]!r}"
            may_be_decimal = decimals and place != columns.label
            if not (_NUMBER if may_be_decimal else _WHOLE).fullmatch(field):
                raise DataError(f"{where}: {field[:20]!r} is not a {'' if may_be_decimal else 'whole '}number.")
            value = float(field)
            if not may_be_decimal and not 0 <= value <= highest:
                kind = "label" if place == columns.label else "pixel"
                raise DataError(f"{where}: the {kind} {int(value)} is out of range 0..{highest}.")
            row.append(value)
        rows.append(row)
    return np.array(rows, np.float32 if decimals else np.int16).reshape(-1, len(columns.names))


def _fields(text: bytes, delimiter: str) -> list[str]:
    return [field.strip().strip('"').strip() for field in text.decode("utf-8", "replace").split(delimiter)]
