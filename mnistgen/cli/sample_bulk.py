"""`mnistgen sample --count`: labelled images in any number, written as they are sampled."""

from collections.abc import Callable, Iterator
from math import gcd
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnistgen.checkpoint import Checkpoint
from mnistgen.cli.sample_pictures import SampleOptions, in_turn
from mnistgen.console import Display, out
from mnistgen.data import STDOUT, ImageStream, export_data
from mnistgen.errors import UsageError
from mnistgen.model import GenerativeModel
from mnistgen.sampling import sample_batches
from mnistgen.sampling.options import digits_of

LabelsOf = Callable[[int, int], Tensor]  # the labels from one place up to another
ENDINGS = {"": "png", ".npz": "npz", ".csv": "csv"}


def write_bulk(
    model: GenerativeModel,
    about: Checkpoint,
    options: SampleOptions,
    sampling: dict[str, Any],
    *,
    name: str,
    default: Path,
    provenance: dict[str, str],
) -> None:
    """Sample `options.count` images, write them, and say where they are and how many there are of each class."""
    count = options.count or 0
    target = options.out or default
    kind = options.format or format_of(target)
    labels, counts_are = labels_of_bulk(options, model, about)

    def pieces() -> Iterator[range]:
        return (range(start, min(start + size, count)) for start in range(0, count, size))

    def images() -> Iterator[Tensor]:
        display = Display("sample", quiet=options.quiet or count <= 1000)
        with display.live():
            for piece in pieces():
                y = labels(piece.start, piece.stop)
                yield from sample_batches(
                    model, y, seed=options.seed, batch_size=size, first=piece.start, **sampling
                )  # fmt: skip
                display.update(piece.stop / count, f"{piece.stop} images", last=piece.stop == count)

    size = options.batch_size
    # What a model does not respect is no label of what it generates.
    requested = (lambda: (labels(piece.start, piece.stop) for piece in pieces())) if model.respects_labels else None
    classes, names = (model.num_classes, tuple(model.class_names)) if requested else (1, ())
    stream = ImageStream(images, requested, count, classes, name, names)
    export_data(stream, target, kind, provenance=provenance)
    what = f"labelled images, {counts_are}" if requested else "images without labels"
    out(stderr=target == STDOUT).print(f"{count} {what}: {target}", markup=False)


def format_of(target: Path) -> str:
    """The format to write, by the ending of the path. Raises `UsageError` where it does not say."""
    if target == STDOUT:
        raise UsageError("--out - is standard output; say in which form with --format npz or --format csv.")
    if target.suffix not in ENDINGS:
        raise UsageError(f"--out {target}: data in bulk is written as a folder, an .npz or a .csv.")
    return ENDINGS[target.suffix]


def labels_of_bulk(options: SampleOptions, model: GenerativeModel, about: Checkpoint) -> tuple[LabelsOf, str]:
    """The label of each image, by --class-counts, and a word on how many there are of each class."""
    digits, _ = digits_of(options.digits, model)
    count = options.count or 0
    if not model.respects_labels:
        return lambda start, stop: in_turn(digits, start, stop), ""
    if options.class_counts != "equal":
        found = None if options.class_counts == "auto" and options.digits else _test_labels(about, options)
        wanted = options.class_counts == "test" or (found is not None and count == len(found))
        if wanted and found is not None:
            from mnistgen.scoring.reference import class_counts  # imports the evaluators

            chosen = found[torch.isin(found, torch.tensor(digits))]
            if not len(chosen):
                raise UsageError(f"--class-counts test: the test set of {about.dataset} has none of these --digits.")
            counts = class_counts(chosen, count)
            return lambda start, stop: spread(counts, start, stop), f"of each class as many as {about.dataset} tests"
        if wanted:
            raise UsageError(
                f"--class-counts test: the test set of {about.dataset or 'this checkpoint'} is not known here; "
                "give --class-counts equal."
            )
    return lambda start, stop: in_turn(digits, start, stop), "the classes in turn"


def spread(counts: list[int], start: int, stop: int) -> Tensor:
    """The labels of the places from `start` up to `stop` of a row that has `counts[c]` of each class c, well mixed.

    A progression with a stride that has no divisor in common with the length comes to every place once; one of about
    the golden ratio spreads them evenly.
    """
    n = sum(counts)
    stride = next(stride for stride in range(max(1, round(0.618034 * n)), 2 * n + 1) if gcd(stride, n) == 1)
    places = (start * stride % n + stride * torch.arange(stop - start)) % n
    return torch.searchsorted(torch.tensor(counts).cumsum(0), places, right=True)


def _test_labels(about: Checkpoint, options: SampleOptions) -> Tensor | None:
    """The labels of the test set of what the checkpoint was trained on: those that ship, or on disk; None: unknown."""
    if not about.dataset:
        return None
    from mnistgen.scoring.reference import labels_of_test_set  # imports the evaluators

    return labels_of_test_set(about.dataset, data_dir=options.data_dir)
