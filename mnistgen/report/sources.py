"""What a page is made from: checkpoints, images, files of scores, folders of training runs."""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from mnistgen.checkpoint import WEIGHTS, Checkpoint
from mnistgen.curves import LOG, read_log
from mnistgen.errors import DataError, UsageError
from mnistgen.report.table import Scored, named, read_scores
from mnistgen.sampling import grid, sample
from mnistgen.scoring import ImageSource, ModelSource, open_source

RESULTS = ("results.json", "loop.json")  # one of them is in the folder of a study
EACH = 10  # images of a class


class Strip(NamedTuple):
    """Images of one class."""

    label: str  # the name of the class, empty for images without labels
    picture: str  # a data URI
    size: int


@dataclass(frozen=True)
class Gallery:
    """What a model draws, or what images there are, by class."""

    name: str
    about: str  # where they are from, in a sentence
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Run:
    """A training that left a log."""

    name: str
    records: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """What an augmentation study or self-consuming training came to."""

    name: str
    verdict: str
    figures: Mapping[str, str]  # data URIs by what they show


@dataclass
class Report:
    """Everything that goes onto a page."""

    galleries: list[Gallery] = field(default_factory=list)
    scores: list[Scored] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    studies: list[Study] = field(default_factory=list)


def read_sources(
    sources: Sequence[str],
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    data_dir: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Read each source: a checkpoint, images, a file of scores (.json), the folder of a training or of a study.

    All models draw the same labels from the same seeds. Raises `UsageError` where there is nothing to show.
    """
    report = Report()
    for source in sources:
        progress(source)
        path = Path(source)
        if path.suffix == ".json":
            report.scores += read_scores(path)
            continue
        if found := next((path / name for name in RESULTS if (path / name).is_file()), None):
            report.studies.append(_study(found))
            continue
        if path.is_dir() and (records := read_log(path / LOG)):
            report.runs.append(Run(source.rstrip("/"), records))
            if not (path / WEIGHTS).is_file():
                continue
        report.galleries.append(_gallery(source, seed, device, data_dir))
    if not sources:
        raise UsageError("Name what the page is to show: checkpoints, images, score files, folders of trainings.")
    return report


def _study(results: Path) -> Study:
    """The verdict and the figures in the folder of a study."""
    try:
        about = json.loads(results.read_text("utf-8"))
        verdict = str(about.get("verdict", ""))
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{results}: holds no results; `mnistgen augment --out FOLDER` writes them.") from error
    figures = {path.stem.replace("_", " "): uri(path.read_bytes()) for path in sorted(results.parent.glob("*.png"))}
    return Study(str(results.parent), verdict, figures)


def _gallery(source: str, seed: int, device: str | torch.device, data_dir: Path | None) -> Gallery:
    found = open_source(source, device=device, data_dir=data_dir)
    if isinstance(found, ModelSource):
        model = found.model
        labels = torch.tensor(model.trained_classes or (0,)).repeat_interleave(EACH)
        images = sample(model, labels, seed=seed, **found.sampling_options)
        known: Tensor | None = labels if model.respects_labels else None
        about = _described(type(model).__doc__, found.checkpoint)
    else:
        assert isinstance(found, ImageSource)
        images, known, about = found.data.images, found.data.labels, f"{len(found.data):,} images."
    return Gallery(found.name, about, _strips(images, known, found.class_names))


def _strips(images: Tensor, labels: Tensor | None, names: Sequence[str]) -> list[Strip]:
    if labels is None:
        return [Strip("", png(grid(images[: EACH**2], EACH)), min(len(images), EACH**2))]
    strips = []
    for label in labels.unique().tolist():
        some = images[labels == label][:EACH]
        strips.append(Strip(named(label, names), png(grid(some, EACH)), len(some)))
    return strips


def _described(doc: str | None, checkpoint: Checkpoint | None) -> str:
    """The model in a sentence, and what it was trained on."""
    words = (doc or "").strip().split("\n\n", 1)[0].replace("\n", " ").strip().rstrip(".")
    if checkpoint is None:
        return words
    trained = f"trained on {checkpoint.dataset or 'images'}: {checkpoint.steps:,} steps, seed {checkpoint.seed}"
    minutes = f", {checkpoint.seconds / 60:.0f} min" if checkpoint.seconds >= 60 else ""
    return f"{words}; {trained}{minutes}." if words else f"{trained}{minutes}."


def png(image: Tensor) -> str:
    """A grey image (H, W) uint8 as a data URI."""
    file = io.BytesIO()
    Image.fromarray(image.numpy()).save(file, "PNG", optimize=True)
    return uri(file.getvalue())


def uri(content: bytes) -> str:
    """A PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
