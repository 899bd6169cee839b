"""What a page is made from: checkpoints, images, files of scores, folders of training runs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnistgen.checkpoint import WEIGHTS, Checkpoint
from mnistgen.curves import LOG, read_log
from mnistgen.data import Dataset, load_data
from mnistgen.errors import DataError, MnistgenError, UsageError
from mnistgen.evaluator import Classifier, evaluator_path, extract, load_classifier
from mnistgen.metrics import nearest
from mnistgen.model import HasTrajectory
from mnistgen.mosaic import data_uri, grid, uri
from mnistgen.report.table import Scored, named, read_scores, shared_name
from mnistgen.sampling import gif, sample, sample_trajectory
from mnistgen.scoring import ImageSource, ModelSource, Source, open_source
from mnistgen.scoring.sources import dataset_of

RESULTS = ("results.json", "loop.json")  # one of them is in the folder of a study
EACH = 10  # images of a class
UNSURE = 20  # images that an evaluator is least sure of
FRAMES = 16  # of an animation, at most
VIEWS = ("by class", "least certain", "nearest training images", "from noise to image")


class Strip(NamedTuple):
    """Images side by side."""

    label: str  # the name of the class where they are all of one, else empty
    picture: str  # a data URI
    words: str  # what they are
    view: str = VIEWS[0]


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
    origin: str = ""  # what it shares with those of other seeds
    others: Sequence[Sequence[dict[str, Any]]] = ()  # the records of those, where it stands for them all


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
    report, reader = Report(), _Reader(seed, device, data_dir)
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
            report.runs.append(Run(source.rstrip("/"), records, _origin(path)))
            if not (path / WEIGHTS).is_file():
                continue
        report.galleries.append(reader.gallery(source))
    if not sources:
        raise UsageError("Name what the page is to show: checkpoints, images, score files, folders of trainings.")
    report.runs = _merged(report.runs)
    return report


def _origin(folder: Path) -> str:
    """Everything that the trainings of two seeds share, as far as the flags of a run say it."""
    try:
        run = json.loads((folder / "run.json").read_text("utf-8"))
        options = {key: run["options"].get(key) for key in ("data", "validation", "steps", "budget", "init")}
        return json.dumps([run["model"], run["config"], options], sort_keys=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""


def _merged(runs: Sequence[Run]) -> list[Run]:
    """The runs, with those that differ by their seed in one."""
    groups: dict[str, list[Run]] = {}
    for number, run in enumerate(runs):
        groups.setdefault(run.origin or str(number), []).append(run)
    return [
        replace(
            group[0],
            name=f"{shared_name([run.name for run in group])} ({len(group)} seeds)",
            others=[run.records for run in group[1:]],
        )
        if len(group) > 1
        else group[0]
        for group in groups.values()
    ]


def _study(results: Path) -> Study:
    """The verdict and the figures in the folder of a study."""
    try:
        about = json.loads(results.read_text("utf-8"))
        verdict = str(about.get("verdict", ""))
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{results}: holds no results; `mnistgen augment --out FOLDER` writes them.") from error
    figures = {path.stem.replace("_", " "): uri(path.read_bytes()) for path in sorted(results.parent.glob("*.png"))}
    return Study(str(results.parent), verdict, figures)


class _Reader:
    """Reads what has images; keeps the evaluators and the training images that it has needed."""

    def __init__(self, seed: int, device: str | torch.device, data_dir: Path | None) -> None:
        self.seed, self.device, self.data_dir = seed, device, data_dir
        self._evaluators: dict[str, Classifier | None] = {}
        self._training: dict[str, Dataset | None] = {}

    def gallery(self, source: str) -> Gallery:
        """What a source has to show, in each view that there is."""
        found, motion = open_source(source, device=self.device, data_dir=self.data_dir), []
        if isinstance(found, ModelSource):
            model = found.model
            labels = torch.tensor(model.trained_classes or (0,)).repeat_interleave(EACH)
            images = sample(model, labels, seed=self.seed, **found.sampling_options)
            known: Tensor | None = labels if model.respects_labels else None
            about = _described(type(model).__doc__, found.checkpoint)
            motion = self._motion(found)
        else:
            assert isinstance(found, ImageSource)
            images, known, about = found.data.images, found.data.labels, f"{len(found.data):,} images."
        strips = _strips(images, known, found.class_names, found.name)
        shown = _chosen(known, images)
        some, of = images[shown], None if known is None else known[shown]
        return Gallery(found.name, about, [*strips, *self._unsure(found, some, of), *self._nearest(found, some, of),
                                           *motion])  # fmt: skip

    def _motion(self, source: ModelSource) -> list[Strip]:
        """An animation of one image of each class, where the model has it."""
        if not isinstance(source.model, HasTrajectory):
            return []
        labels = torch.tensor((source.model.trained_classes or (0,) * EACH)[:EACH])
        steps = sample_trajectory(
            source.model, labels, seed=self.seed, frames=FRAMES, **source.sampling_options
        )  # (steps, n, 1, 28, 28)
        frames = [grid(images, len(labels)) for images in steps]
        return [Strip("", uri(gif(frames), "gif"), f"{len(labels)} images of {source.name} as they form", VIEWS[3])]

    def _unsure(self, source: Source, images: Tensor, labels: Tensor | None) -> list[Strip]:
        """The images whose class evaluator A is least sure of."""
        evaluator = self._evaluator(source)
        if evaluator is None:
            return []
        probabilities = extract(evaluator, images, layers=["logits"])["logits"].float().softmax(1)
        sure, predicted = probabilities.max(1)
        if labels is not None:
            sure = probabilities.gather(1, labels[:, None])[:, 0]
        order = sure.argsort(stable=True)[:UNSURE]
        what = "of the class that was asked for" if labels is not None else "of any class"
        worst = "; ".join(
            f"{f'{named(int(labels[i]), source.class_names)} read as ' if labels is not None else ''}"
            f"{named(int(predicted[i]), source.class_names)}, {float(sure[i]):.0%}"
            for i in order[:3].tolist()
        )
        words = f"The {len(order)} of {len(images)} images of {source.name} that evaluator A is least sure are {what}"
        return [Strip("", data_uri(grid(images[order], EACH)), f"{words}; the first three: {worst}", VIEWS[1])]

    def _nearest(self, source: Source, images: Tensor, labels: Tensor | None) -> list[Strip]:
        """An image of each class above the nearest of the training images, where those are on disk."""
        training = self._training_images(source)
        if training is None or not len(images):
            return []
        some = images[_chosen(labels, images, 1 if labels is not None else EACH)][:EACH]
        found = nearest(some.flatten(1), training.images.flatten(1))
        pair = torch.cat([some, training.images[found.indices[:, 0]]])
        words = f"Images of {source.name}, and below each the nearest of {len(training):,} training images, in pixels"
        return [Strip("", data_uri(grid(pair, len(some))), words, VIEWS[2])]

    def _evaluator(self, source: Source) -> Classifier | None:
        """Evaluator A of the source's dataset; None where there is none, or it knows other classes."""
        dataset = self._dataset(source)
        if dataset not in self._evaluators:
            try:
                self._evaluators[dataset] = load_classifier(evaluator_path(dataset), device=self.device)
            except MnistgenError:
                self._evaluators[dataset] = None
        found = self._evaluators[dataset]
        return found if found is not None and max(source.classes, default=0) < found.num_classes else None

    def _training_images(self, source: Source) -> Dataset | None:
        dataset = self._dataset(source)
        if dataset not in self._training:
            try:
                self._training[dataset] = load_data(dataset, "train", data_dir=self.data_dir, download=False)
            except MnistgenError:
                self._training[dataset] = None
        return self._training[dataset]

    @staticmethod
    def _dataset(source: Source) -> str:
        return dataset_of([source], by_name=True)


def _chosen(labels: Tensor | None, images: Tensor, each: int = EACH) -> Tensor:
    """Places of the first images of each class, or of as many of all."""
    if labels is None:
        return torch.arange(min(len(images), each * EACH))
    return torch.cat([(labels == label).nonzero()[:each, 0] for label in labels.unique().tolist()])


def _strips(images: Tensor, labels: Tensor | None, names: Sequence[str], source: str) -> list[Strip]:
    if labels is None:
        some = images[: EACH**2]
        return [Strip("", data_uri(grid(some, EACH)), f"{len(some)} images, {source}")]
    strips = []
    for label in labels.unique().tolist():
        some, name = images[labels == label][:EACH], named(label, names)
        strips.append(Strip(name, data_uri(grid(some, EACH)), f"{len(some)} images of class {name}, {source}"))
    return strips


def _described(doc: str | None, checkpoint: Checkpoint | None) -> str:
    """The model in a sentence, and what it was trained on."""
    words = (doc or "").strip().split("\n\n", 1)[0].replace("\n", " ").strip().rstrip(".")
    if checkpoint is None:
        return words
    trained = f"trained on {checkpoint.dataset or 'images'}: {checkpoint.steps:,} steps, seed {checkpoint.seed}"
    minutes = f", {checkpoint.seconds / 60:.0f} min" if checkpoint.seconds >= 60 else ""
    return f"{words}; {trained}{minutes}." if words else f"{trained}{minutes}."
