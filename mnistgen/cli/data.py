"""`mnistgen data [SOURCE]` and `mnistgen data export SOURCE`."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import tyro
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mnistgen.cli.arguments import Reading, parse
from mnistgen.console import notes, out, show
from mnistgen.data import (
    STDOUT,
    Dataset,
    Steps,
    available_splits,
    export_data,
    is_picture,
    load_data,
    photograph_steps,
)
from mnistgen.errors import DataError, UsageError
from mnistgen.sampling import grid, save_png

ROWS = 8  # images of each class in the picture
COLUMNS = 26  # classes in the picture, at most
UNLABELLED_COLUMNS = 16
STEP_SIDE = 112  # pixels of each step of a photograph in the picture
CHUNK = 2**24  # pixels counted at a time


@dataclass(frozen=True, kw_only=True)
class ShowOptions(Reading):
    """Show a dataset: its shape, splits, classes, pixels, content hash, and a picture of it."""

    source: Annotated[str, tyro.conf.Positional] = "mnist"
    """A name (mnist, fashion, kmnist, qmnist, emnist-letters, ...), or the path of IDX, CSV, NPZ, NPY or Parquet, of a
    folder of pictures, or of a photograph."""
    split: Literal["train", "validation", "test", "all"] = "train"
    """Which images; all: every part together."""
    out: Path | None = None
    """A .png for the picture: random images, one column per class; --seed takes others. Of photographs, the steps."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Reading):
    """Write a dataset in another format; it reads back with the same content hash."""

    standard_output = ("out",)

    source: Annotated[str, tyro.conf.Positional]
    """A name (mnist, fashion, kmnist, qmnist, emnist-letters, ...), or the path of IDX, CSV, NPZ, NPY or Parquet, of a
    folder of pictures, or of a photograph."""
    format: Literal["npz", "png", "csv", "idx"]
    """npz and csv: one file; png: a folder of pictures for each class; idx: a folder of two files as MNIST has."""
    out: Path
    """The file or the new folder to write; - for standard output, of npz and csv."""
    split: Literal["train", "validation", "test", "all"] = "train"
    """Which images; all: every part together."""


EXAMPLES = """
mnistgen data                                        MNIST
mnistgen data fashion --split test --out grid.png    with a picture
mnistgen data digits.csv
mnistgen data photos/ --resize                       a folder of images for each class
mnistgen data photograph.jpg --out steps.png         ink on paper, and the steps to MNIST's format
mnistgen data export mnist --format npz --out mnist.npz
mnistgen data export --help
"""

EXPORT_EXAMPLES = """
mnistgen data export mnist --format npz --out mnist.npz
mnistgen data export emnist-letters --split test --format png --out letters/
mnistgen data export photos/ --resize --format csv --out photos.csv
"""


def run(arguments: list[str], prog: str) -> int:
    if arguments[:1] == ["export"]:
        return _export(parse(ExportOptions, arguments[1:], prog=f"{prog} export", examples=EXPORT_EXAMPLES))
    return _show(parse(ShowOptions, arguments, prog=prog, examples=EXAMPLES))


def _export(options: ExportOptions) -> int:
    dataset = load_data(options.source, options.split, data_dir=options.data_dir, **options.how)
    notes(dataset.notes)
    export_data(dataset, options.out, options.format, provenance={"Source": options.source, "Hash": dataset.hash})
    line = f"{len(dataset)} images, hash {dataset.hash}: {options.out}"
    out(stderr=options.out == STDOUT).print(line, markup=False)
    return 0


def _show(options: ShowOptions) -> int:
    if options.out is not None and options.out.suffix.lower() != ".png":
        raise UsageError(f"--out {options.out}: the picture is a .png; `mnistgen data export` writes the data.")
    if not options.photographs and is_picture(options.source):
        options = replace(options, photographs=True)  # a single picture can be nothing else
    dataset = load_data(options.source, options.split, data_dir=options.data_dir, **options.how)
    if options.photographs:
        picture = steps_picture(photograph_steps(options.source, dataset.split))
    else:
        picture = class_grid(dataset, options.seed)
    if options.out is not None:  # before anything is printed, whose reader may stop reading
        command = ["mnistgen", "data", options.source, "--split", options.split, "--seed", str(options.seed)]
        command += [f"--{name}" for name, is_on in options.how.items() if is_on is True]
        command += ["--binarise", options.binarise] if options.binarise else []
        metadata = {"Software": "mnistgen", "Source": shlex.join(command), "Hash": dataset.hash}
        save_png(options.out, picture, metadata)
    notes(dataset.notes)
    console = out()
    console.print(_facts(dataset, options))
    if dataset.labels is not None:
        console.print(_classes(dataset))
    show(picture)
    if options.out is not None:
        console.print(f"picture: {options.out}", markup=False)
    return 0


def _facts(dataset: Dataset, options: ShowOptions) -> Table:
    counts = pixel_counts(dataset.images)
    mean, std = mean_and_std(counts)
    there = counts.nonzero().flatten()
    labels = "without labels" if dataset.labels is None else f"labels {tuple(dataset.labels.shape)} int64"
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("dataset", f"{dataset.name}, {dataset.split}"),
        ("shape", f"{tuple(dataset.images.shape)} uint8, {labels}"),
        ("splits", _split_sizes(dataset, options)),
        ("pixels", f"{int(there[0])} to {int(there[-1])}"),
        ("mean", f"{mean:.4f} (of 255), {mean / 255:.4f} (of 1)"),
        ("std", f"{std:.4f} (of 255), {std / 255:.4f} (of 1)"),
        ("balance", _balance(dataset)),
        ("hash", dataset.hash),
    ):
        table.add_row(name, Text(value))
    return table


def _split_sizes(dataset: Dataset, options: ShowOptions) -> str:
    sizes = []
    for split in available_splits(options.source, data_dir=options.data_dir):
        if split == dataset.split:
            sizes.append(f"{split} {len(dataset)}")
            continue
        try:  # what was not asked for is neither downloaded nor a reason to fail
            other = load_data(options.source, split, data_dir=options.data_dir, download=False, **options.how)
            sizes.append(f"{split} {len(other)}")
        except DataError:
            sizes.append(f"{split} not readable (--split {split} says why)")
    return ", ".join(sizes)


def _balance(dataset: Dataset) -> str:
    """Describe how even the classes are: their entropy against that of equal classes, and the extremes."""
    if dataset.labels is None:
        return "no labels"
    counts = dataset.y.bincount(minlength=dataset.num_classes).double()
    if dataset.num_classes == 1:
        return "one class"
    p = counts / counts.sum()
    evenness = float(torch.special.entr(p).sum()) / math.log(dataset.num_classes)
    return (
        f"{evenness:.4f} of 1 (entropy over log {dataset.num_classes}); "
        f"classes of {int(counts.min())} to {int(counts.max())} images"
    )


def _classes(dataset: Dataset) -> Table:
    counts = dataset.y.bincount(minlength=dataset.num_classes).tolist()
    named = any(name != str(number) for number, name in enumerate(dataset.class_names))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("class", *(("name",) if named else ()), "images", "share", ""):
        table.add_column(name, justify="left" if name in ("name", "") else "right")
    for number, count in enumerate(counts):
        bar = "█" * round(20 * count / max(counts))
        name_cells = (Text(repr(dataset.class_names[number])[1:-1]),) if named else ()
        table.add_row(str(number), *name_cells, str(count), f"{count / len(dataset):.1%}", bar)
    return table


def pixel_counts(images: Tensor) -> Tensor:
    """Count how often each value occurs, (n, 1, 28, 28) uint8 -> (256,) int64."""
    counts = torch.zeros(256, dtype=torch.int64)
    pixels = images.flatten()
    for start in range(0, len(pixels), CHUNK):  # bincount widens its input eightfold
        counts += pixels[start : start + CHUNK].bincount(minlength=256)
    return counts


def mean_and_std(counts: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the pixels, from how often each value occurs."""
    values = torch.arange(256, dtype=torch.float64)
    p = counts.double() / counts.sum()
    mean = (p * values).sum()
    return float(mean), float((p * (values - mean) ** 2).sum().sqrt())


def class_grid(dataset: Dataset, seed: int) -> Tensor:
    """A picture with a column for each class and `ROWS` random images below one another, (h, w) uint8.

    A class with fewer images ends in black; where there are more than `COLUMNS` classes, the first are shown. Without
    labels, the images fill the columns.
    """
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    if dataset.labels is None:
        return grid(dataset.images[order[: ROWS * UNLABELLED_COLUMNS]], UNLABELLED_COLUMNS)
    shuffled = dataset.labels[order]
    columns = min(dataset.num_classes, COLUMNS)
    cells = torch.zeros(ROWS, columns, 1, 28, 28, dtype=torch.uint8)
    for number in range(columns):
        chosen = order[(shuffled == number).nonzero().flatten()[:ROWS]]
        cells[: len(chosen), number] = dataset.images[chosen]
    return grid(cells.flatten(0, 1), columns)


def steps_picture(photographs: Sequence[Steps]) -> Tensor:
    """A row for each photograph: as it was taken, its ink, cropped, and as 28x28; (h, w) uint8."""
    cells = [_cell(step) for steps in photographs for step in steps]
    return grid(torch.stack(cells), len(Steps._fields))


def _cell(image: Tensor) -> Tensor:
    """(h, w) uint8 -> (1, side, side), in its shape, on black."""
    height, width = (max(1, round(side * STEP_SIDE / max(image.shape))) for side in image.shape)
    larger = max(image.shape) <= STEP_SIDE  # pixels are shown as they are, unless there are too many
    scaled = F.interpolate(image[None, None].float(), (height, width), mode="nearest" if larger else "area")[0]
    top, left = (STEP_SIDE - height) // 2, (STEP_SIDE - width) // 2
    padded = F.pad(scaled, (left, STEP_SIDE - width - left, top, STEP_SIDE - height - top))
    return padded.round().to(torch.uint8)
