"""The score of a source, beside its scale, with the protocol that makes it comparable."""

import importlib.metadata
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnistgen.data import Dataset, conversions, load_data
from mnistgen.errors import DataError, UsageError
from mnistgen.evaluator.weights import FOLDER
from mnistgen.files import atomic_file
from mnistgen.limits import checked_seed
from mnistgen.model import GenerativeModel
from mnistgen.sampling import grid
from mnistgen.scoring.classifiers import classification_accuracy_score, two_sample
from mnistgen.scoring.fidelity import check_inception_weights, inception_fid
from mnistgen.scoring.measure import TRAINING_IMAGES, Measured, measure, measure_memorisation
from mnistgen.scoring.panel import PENULTIMATE, Panel
from mnistgen.scoring.reference import Reference, class_counts, dataset_name, draw, load_reference, read_scales
from mnistgen.scoring.scale import FLOOR, floor, real_labels, summary
from mnistgen.scoring.sources import Drawn, Source, dataset_of, open_source
from mnistgen.training import resolve_device

N = 10_000
UNLIKE = 0.01  # share of images in other classes than the reference's, from which on it is said
FID = f"fid.{PENULTIMATE}"
JUDGES = ("A", "B")  # the evaluators that sources are ranked by
COMPUTED = "computed here"  # of features and scales that do not ship
Progress = Callable[[str, float], None]


@dataclass(eq=False)
class Score:
    """What a source got. `numbers` are by name, as in `measure`; `scale` has the same names for each of its rows."""

    name: str
    numbers: dict[str, float]
    scale: dict[str, dict[str, Any]]  # row -> {"mean": numbers, "spread": numbers, "draws": int}
    protocol: dict[str, Any]
    details: dict[str, Any]  # what stands behind the numbers: per class, tables, intervals
    seconds: dict[str, float]  # by part
    not_measured: dict[str, str]  # what could not be measured, and why
    notes: list[str]  # what a reader should know
    images: Tensor = field(repr=False)  # (n, 1, 28, 28) uint8, what was scored
    labels: Tensor | None = field(repr=False)
    strip: Tensor | None = field(repr=False)  # see `measure_memorisation`

    @property
    def fid(self) -> float:
        """FID in evaluator A's penultimate features."""
        return self.numbers[FID]

    @property
    def floors(self) -> float | None:
        """The headline: the larger of the multiples of the floor under evaluators A and B; None without a floor.

        A model may have been chosen or stopped by either, which flatters it in that one's eyes. A alone counts where
        there is no B, as the protocol then says.
        """
        return max(self.floors_by.values(), default=None)

    @property
    def floors_by(self) -> dict[str, float]:
        """FID in the penultimate features of A and of B, each as a multiple of its floor; empty without a floor."""
        found = {network: self.times_floor(f"fid.{network}.penultimate") for network in JUDGES}
        return {network: times for network, times in found.items() if times is not None}

    def times_floor(self, name: str) -> float | None:
        """A distance as a multiple of what real images get."""
        value, best = self.numbers.get(name), self.scale.get(FLOOR, {}).get("mean", {}).get(name)
        return value / best if value is not None and best is not None and best > 0 else None

    @property
    def protocol_line(self) -> str:
        """Everything that two numbers must share to be compared, in one line."""
        p = self.protocol
        evaluators = " ".join(f"{name} {digest}" for name, digest in p["evaluators"].items())
        versions = ", ".join(f"{name} {version}" for name, version in p["versions"].items())
        options = ", ".join(f"{name} {value}" for name, value in p.get("sampling", {}).items())
        source = f"sampling {options}; " if options else ""
        if "images_hash" in p:
            source = f"images {p['images_hash']}; "
        return (
            f"evaluators {evaluators}; layers {', '.join(p['layers'])}; n {p['n']} (class counts: {p['class_counts']}) "
            f"against {p['reference_n']} of {p['reference']} ({p['reference_hash']}, features "
            f"{p['reference_features']}); scale {p['scale']}; seed {p['seed']}; {source}{versions}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers and text, for JSON."""
        return {
            "name": self.name,
            "headline": {"floors": self.floors, "by": self.floors_by},
            "protocol": self.protocol,
            "numbers": self.numbers,
            "times_floor": {name: self.times_floor(name) for name in self.numbers if _is_distance(name)},
            "scale": self.scale,
            "details": self.details,
            "not_measured": self.not_measured,
            "notes": self.notes,
            "seconds": {part: round(seconds, 3) for part, seconds in self.seconds.items()},
        }

    def picture(self, rows: int = 10, columns: int = 10) -> Tensor:
        """A grid of what was scored: a row a class where there are labels, else as they come. (H, W) uint8."""
        if self.labels is None:
            return grid(self.images[: rows * columns], columns)
        cells = []
        for label in self.labels.unique().tolist()[:rows]:
            some = self.images[self.labels == label][:columns]
            cells.append(torch.cat([some, torch.zeros(columns - len(some), 1, 28, 28, dtype=torch.uint8)]))
        return grid(torch.cat(cells), columns)


class Scorer:
    """Evaluators, reference and scale of a dataset, loaded once for any number of sources.

    `training` are the dataset's training images where they are on disk: memorisation, CAS and a floor that does not
    ship need them. Raises `CheckpointError` where there is no evaluator for the dataset, and as `load_data` where its
    reference images are neither shipped nor on disk.
    """

    def __init__(
        self,
        data: str = "mnist",
        *,
        split: str = "test",
        device: str | torch.device = "auto",
        data_dir: Path | str | None = None,
        panel: Panel | None = None,
        reference: Reference | None = None,
        training: Dataset | None = None,
    ) -> None:
        self.device, self.data_dir = resolve_device(device), data_dir
        self.panel = panel or Panel.load(dataset_name(data), device=self.device)
        self.reference = reference or load_reference(self.panel, data, split, data_dir=data_dir)
        self.training, self._no_training = training, "the training images are not given."
        if training is None and reference is None:
            try:
                self.training = load_data(data, "train", data_dir=data_dir, download=False)
            except (DataError, UsageError) as error:  # not on disk, damaged, or not divided
                self._no_training = f"it needs the training images. {error}"
        self.scales, self._scales_hash = read_scales(FOLDER, self.panel, self.reference)
        self._shipped_scales = set(self.scales)

    def score(
        self,
        source: "str | Path | GenerativeModel | Dataset | tuple[Tensor, Tensor | None] | Source",
        *,
        n: int = N,
        seed: int = 0,
        name: str = "",
        two_sample_test: bool = False,
        cas: bool = False,
        inception: bool = False,
        inception_weights: Path | None = None,
        training_images: int = TRAINING_IMAGES,
        progress: Progress | None = None,
        **options: Any,
    ) -> Score:
        """Draw at most n images once, look at them once, and measure everything that these images allow.

        `two_sample_test` and `cas` train classifiers; `inception` adds the literature's FID. `options` go to
        `open_source`. Raises `UsageError` where there are fewer than 100 images, or they are of other classes, and
        `DataError` where what was asked for needs files that are not there.
        """
        seed, say = checked_seed(seed), progress or _silent
        source = open_source(source, name=name, device=self.device, data_dir=self.data_dir, **options)
        source.check(self.panel.num_classes)
        if inception:
            inception_weights = check_inception_weights(inception_weights)
        if two_sample_test or cas or inception:  # not after minutes of other work
            self._real_images(1)
        if two_sample_test or cas:
            self._training_images(1, seed)
        drawn = source.draw(
            n, self.reference.labels, seed=seed, progress=lambda done: say(f"drawing {source.name}", 0.5 * done)
        )
        say("features", 0.5)
        start = time.perf_counter()
        seen = self.panel.look(drawn.images, drawn.labels)
        seconds = {"drawing": drawn.seconds, "features": time.perf_counter() - start}
        say("distances", 0.6)
        result = measure(seen, self.reference, seed=seed)

        say("memorisation", 0.8)
        labels = drawn.labels
        if labels is None:  # like is compared with like; what the evaluator sees will do
            assert seen.probabilities is not None
            labels = seen.probabilities.argmax(1)
        strip = None
        if self.training is None:
            result.not_measured["memorisation"] = self._no_training
        else:
            strip = measure_memorisation(
                result, drawn.images, labels, self.reference, self.training, training_images=training_images, seed=seed
            )
        if two_sample_test:
            with result.part("two-sample test", needed=True):
                self._two_sample(result, drawn.images, seed, say)
        if cas:
            with result.part("CAS", needed=True):
                self._cas(result, drawn, seed, say)
        if inception:
            say("Inception", 0.9)
            with result.part("Inception", needed=True):
                real = self._real_images(len(drawn.images))
                result.numbers["inception_fid"] = inception_fid(
                    drawn.images, real, weights=inception_weights, device=self.device
                )
        scale = self._scale(len(drawn.images), result)
        say("done", 1.0)
        return Score(
            name=source.name,
            numbers=result.numbers,
            scale=scale,
            protocol=self._protocol(drawn, seed) | source.about,
            details=result.details,
            seconds=seconds | result.seconds,
            not_measured=result.not_measured,
            notes=self._notes(drawn, result),
            images=drawn.images,
            labels=drawn.labels,
            strip=strip,
        )

    def _two_sample(self, result: Measured, images: Tensor, seed: int, say: Progress) -> None:
        real = self._real_images(len(images))
        control = self._training_images(len(images), seed)
        test = two_sample(
            images, real, control.images, seed=seed, device=self.device, progress=_within(say, "two-sample test")
        )
        result.details["two_sample"] = test.to_dict()
        result.numbers |= {
            "two_sample": test.as_is.accuracy,
            "two_sample_real": test.as_is.control_accuracy,
            "two_sample_binarised": test.binarised.accuracy,
            "two_sample_binarised_real": test.binarised.control_accuracy,
        }

    def _cas(self, result: Measured, drawn: Drawn, seed: int, say: Progress) -> None:
        if drawn.labels is None:
            raise UsageError("CAS: these images have no labels to train a classifier with.")
        k = self.panel.num_classes
        samples = Dataset(drawn.images, drawn.labels, k, "samples", "all")
        test = Dataset(self._real_images(len(self.reference)), self.reference.labels, k, self.reference.name, "test")
        real = self._training_images(len(drawn.images), seed)
        found = classification_accuracy_score(
            samples, real, test, seed=seed, device=self.device, progress=_within(say, "CAS")
        )
        result.details["cas"] = found.to_dict()
        result.numbers |= {"cas": found.accuracy, "cas_real": found.real_accuracy}

    def _real_images(self, n: int) -> Tensor:
        images = self.reference.take(n).images
        if images is None:
            raise DataError(f"The images of {self.reference.name} are not on disk.")
        return images

    def _training_images(self, n: int, seed: int) -> Dataset:
        if self.training is None:
            raise DataError(self._no_training)
        counts = class_counts(self.reference.labels, min(n, len(self.training)))
        return self.training.subset(draw(self.training.y, counts, seed=seed))

    def _scale(self, n: int, result: Measured) -> dict[str, dict[str, Any]]:
        """The scale that ships, else the floor alone, from one draw of training images; empty without those."""
        if n not in self.scales:
            self.scales[n] = {}
            if self.training is not None:
                with result.part("floor"):
                    best = floor(self.panel, self.reference, self.training, n).numbers
                    self.scales[n] = {FLOOR: summary([best | real_labels(self.panel, self.reference)])}
        if not self.scales[n]:
            there = ", ".join(str(n) for n, rows in sorted(self.scales.items()) if rows) or "no number of"
            result.not_measured.setdefault("floor", f"it ships for {there} images; {self._no_training}")
        return self.scales[n]

    def _protocol(self, drawn: Drawn, seed: int) -> dict[str, Any]:
        n = len(drawn.images)
        return {
            "evaluators": dict(self.panel.hashes),
            "layers": [str(view) for view in self.panel.views],
            "n": n,
            "class_counts": drawn.counts,
            "reference": f"{self.reference.name} {self.reference.split}",
            "reference_hash": self.reference.hash,
            "reference_features": self.reference.features_hash or COMPUTED,
            "reference_n": min(n, len(self.reference)),
            "scale": self._scales_hash if n in self._shipped_scales else COMPUTED,
            "seed": seed,
            "device": str(self.device),
            "versions": {name: importlib.metadata.version(name) for name in ("mnistgen", "torch", "torch-fidelity")},
        }

    def _notes(self, drawn: Drawn, result: Measured) -> list[str]:
        notes = [alarm["text"] for alarm in result.details.get("labels", {}).get("alarms", [])]
        if len(drawn.images) > len(self.reference):
            notes.append(
                f"{len(drawn.images)} images stand against {len(self.reference)} real ones; score "
                f"{len(self.reference)} to compare with others."
            )
        if drawn.labels is not None:
            ours = torch.bincount(drawn.labels, minlength=self.panel.num_classes) / len(drawn.labels)
            real = torch.bincount(self.reference.labels, minlength=self.panel.num_classes) / len(self.reference)
            away = float((ours - real).abs().sum() / 2)
            if away > UNLIKE:
                notes.append(
                    f"Class counts are not the reference's ({away:.1%} of the images would have to be of another "
                    "class), which every distance sees; a checkpoint is asked for the reference's counts."
                )
        return notes


def score(
    source: "str | Path | GenerativeModel | Dataset | tuple[Tensor, Tensor | None] | Source",
    *,
    data: str | None = None,
    split: str = "test",
    device: str | torch.device = "auto",
    data_dir: Path | str | None = None,
    **options: Any,
) -> Score:
    """Score one source: a checkpoint (name, folder, file), images on disk, "mnist:train", a model, or tensors
    ((n, 1, 28, 28) uint8, (n,) int64 or None).

    `data` is the dataset to hold it against, by default that which a checkpoint was trained on, else MNIST. The rest is
    for `Scorer.score`; a `Scorer` scores several sources without loading everything again.
    """
    opened = {key: options.pop(key) for key in ("name", "batch_size", "knobs") if key in options}
    found = open_source(source, device=resolve_device(device), data_dir=data_dir, **conversions(options), **opened)
    scorer = Scorer(data or dataset_of([found]), split=split, device=device, data_dir=data_dir)
    return scorer.score(found, **options)


def write_json(path: Path, scores: list[Score]) -> None:
    """Write everything of several scores, best first."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps([score.to_dict() for score in ranked(scores)], indent=2) + "\n", "utf-8")


def ranked(scores: list[Score]) -> list[Score]:
    """Best first, by the headline (see `Score.floors`); by FID under A where one of them has no floor."""
    floors = {id(score): score.floors for score in scores}
    if None in floors.values():
        return sorted(scores, key=lambda score: score.fid)
    return sorted(scores, key=lambda score: floors[id(score)] or 0.0)


def _is_distance(name: str) -> bool:
    return name.split(".")[0] in ("fid", "relative_fid", "class_fid")


def _within(say: Progress, part: str) -> Callable[[str, float], None]:
    return lambda what, done: say(f"{part}: {what}", 0.8 + 0.2 * done)


def _silent(what: str, done: float) -> None: ...
