"""The cells of a study: what is done once, recorded, and never done again.

A cell is a frozen description of everything that determines its result, the cells that it needs included. So the same
description gives the same result whichever process does it, and its hash is the name of its record.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mnistgen.building import build
from mnistgen.checkpoint import load, save
from mnistgen.data import Dataset
from mnistgen.errors import LeakageError, MnistgenError
from mnistgen.evaluator import (
    Classifier,
    build_classifier,
    evaluate,
    extract,
    load_classifier,
    predict,
    save_classifier,
)
from mnistgen.experiments.lab import Lab, Say, Work
from mnistgen.experiments.recipe import sampling_knobs
from mnistgen.experiments.records import Record, Records
from mnistgen.experiments.subsets import check_exactly, check_trained_on, check_within, content, fingerprints
from mnistgen.files import atomic_file
from mnistgen.metrics import nearest, pixels
from mnistgen.sampling import BATCH, sample_batches
from mnistgen.training import Part

Regime = Literal["subset", "pool", "everything"]


@dataclass(frozen=True)
class Subset:
    """A balanced part of the training split."""

    repetition: int
    per_class: int | None  # None: all of the training split, as it is
    images: int
    hash: str

    @property
    def name(self) -> str:
        return f"r{self.repetition}-n{self.per_class or 'all'}"


@dataclass(frozen=True)
class Bench:
    """What a cell has at hand while it is done."""

    lab: Lab
    records: Records
    work: Work
    say: Say

    def images(self, subset: Subset) -> Dataset:
        """The images of a subset, whose content is what the description says."""
        data = self.lab.subsets(subset.repetition).take(subset.per_class)
        if data.hash != subset.hash:
            raise LeakageError(f"The subset {subset.name} has other images than when the study was planned.")
        return data

    def record(self, cell: "Cell") -> Record:
        """The record of a cell that this one needs."""
        record = self.records.get(cell)
        assert record is not None
        return record


@dataclass(frozen=True)
class Cell(ABC):
    """One piece of work with one record."""

    kind: ClassVar[str]
    suffix: ClassVar[str] = ""  # of the file that it makes beside its record; none: there is no such file
    numbers: ClassVar[tuple[str, ...]] = ()  # what its result always holds; a record without is damaged
    texts: ClassVar[tuple[str, ...]] = ()
    trainings: ClassVar[int] = 0  # how many networks it trains

    @property
    @abstractmethod
    def name(self) -> str:
        """Readable, and safe in file names."""

    @abstractmethod
    def needs(self) -> tuple["Cell", ...]:
        """The cells whose results it takes up."""

    @abstractmethod
    def amounts(self, lab: Lab) -> dict[str, float]:
        """How much work of which part it is, for the estimate."""

    @abstractmethod
    def run(self, bench: Bench) -> dict[str, Any]:
        """Do the work: write `suffix`'s file where there is one, and return what goes into the record."""

    def spec(self) -> dict[str, Any]:
        """Everything that determines the result, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Label(Cell):
    """A classifier trained on a subset with the classical augmentation, which labels and filters other images."""

    kind = "labeller"
    trainings = 1
    suffix = ".safetensors"
    texts = ("trained_on",)
    subset: Subset
    classifier: str
    config: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.subset.name}-labeller"

    def needs(self) -> tuple[Cell, ...]:
        return ()

    def amounts(self, lab: Lab) -> dict[str, float]:  # noqa: ARG002
        return {f"train {self.classifier}": self.steps}

    def run(self, bench: Bench) -> dict[str, Any]:
        data = bench.images(self.subset)
        model = build_classifier(self.classifier, data.num_classes, seed=self.seed, **json.loads(self.config))
        with bench.work.part(f"train {self.classifier}", self.steps):
            model = bench.lab.fit(model, data, steps=self.steps, seed=self.seed, say=bench.say)
        save_classifier(bench.records.made(self), model, dataset=data, steps=self.steps, seed=self.seed)
        return {"trained_on": content(fingerprints(data.images, data.labels))}

    def model(self, bench: Bench) -> Classifier:
        """The trained classifier; that it has seen this subset alone is checked."""
        check_trained_on(bench.record(self).result["trained_on"], bench.images(self.subset), f"The {self.name}")
        return load_classifier(bench.records.made(self), device=bench.lab.device)


@dataclass(frozen=True)
class Pool:
    """Training images beside a subset, of which the true labels are not used."""

    labeller: Label
    images: int  # at most; fewer where there are no more
    confident: float  # the least confidence at which the labeller's label is believed

    def labelled(self, bench: Bench) -> tuple[Dataset, dict[str, Any]]:
        """The images that the labeller is confident of, with its labels; and how many, for the record."""
        lab, subset = bench.lab, self.labeller.subset
        subsets = lab.subsets(subset.repetition)
        pool = lab.train.subset(subsets.pool(subsets.places(subset.per_class), self.images))
        with bench.work.part(f"test {self.labeller.classifier}", len(pool)):
            confidence, labels = predict(self.labeller.model(bench), pool).max(1)
        sure = confidence >= self.confident
        believed = Dataset(pool.images[sure], labels[sure], pool.num_classes, pool.name, "train")
        right = labels[sure] == pool.y[sure].cpu()  # said in the report, and used for nothing
        share = float(right.double().mean()) if len(right) else None
        return believed, {"pool": len(pool), "pool_believed": len(believed), "pool_labels_right": share}


@dataclass(frozen=True)
class Train(Cell):
    """A generator trained on what its regime allows."""

    kind = "generator"
    trainings = 1
    suffix = ".safetensors"
    numbers = ("images",)
    texts = ("trained_on",)
    model: str
    config: str
    regime: Regime
    steps: int
    seed: int
    subset: Subset | None  # None: of no subset, where everything may be seen
    pool: Pool | None = None

    @property
    def name(self) -> str:
        where = self.subset.name if self.subset else "all"
        return f"{where}-{self.model}-{self.regime}"

    def needs(self) -> tuple[Cell, ...]:
        return (self.pool.labeller,) if self.pool else ()

    def amounts(self, lab: Lab) -> dict[str, float]:  # noqa: ARG002
        looked = {f"test {self.pool.labeller.classifier}": self.pool.images} if self.pool else {}
        return {f"train {self.model}": self.steps, **looked}

    def run(self, bench: Bench) -> dict[str, Any]:
        data, about = self.training_images(bench)
        trained_on = self.check(bench, data)
        cls = bench.lab.models[self.model]
        model = build(cls, cls.Config.from_json(self.config), data.num_classes, seed=self.seed)
        with bench.work.part(f"train {self.model}", self.steps):
            model = bench.lab.fit(model, data, steps=self.steps, seed=self.seed, say=bench.say)
        save(bench.records.made(self), model, dataset=data, steps=self.steps, seed=self.seed)
        return {"trained_on": trained_on, "images": len(data), **about}

    def training_images(self, bench: Bench) -> tuple[Dataset, dict[str, Any]]:
        """What the generator is to be trained on, and what the record should say of it."""
        if self.subset is None:
            return bench.lab.train, {}
        data = bench.images(self.subset)
        if self.pool is None:
            return data, {}
        pool, about = self.pool.labelled(bench)
        return joined(data, pool), about

    def check(self, bench: Bench, data: Dataset) -> str:
        """The content of what it is trained on. Raises `LeakageError` where its regime does not allow that."""
        who = f"The generator {self.name}"
        if self.subset is None:
            return check_within(data, bench.lab.train, who)
        subset = bench.images(self.subset)
        if self.regime == "subset":
            return check_exactly(data, subset, who)
        check_exactly(data.subset(torch.arange(len(subset))), subset, f"{who}, its labelled part,")
        return check_within(data, bench.lab.train, who)


@dataclass(frozen=True)
class Draw(Cell):
    """Synthetic images for a subset, the same number of each class in turn, and filtered where that is asked for."""

    kind = "images"
    suffix = ".npz"
    numbers = ("images", "drawn", "kept")
    generator: Train
    subset: Subset  # for whose classifiers
    count: int  # for the largest ratio; fewer are the beginning of more
    seed: int
    draws: float  # at most as many for each image that is kept
    least: float = 0.0  # confidence of the labeller in the label that was asked for; 0 keeps all
    labeller: Label | None = None

    @property
    def name(self) -> str:
        return f"{self.subset.name}-{self.generator.model}-{self.generator.regime}-images"

    def needs(self) -> tuple[Cell, ...]:
        return (self.generator, self.labeller) if self.labeller else (self.generator,)

    def amounts(self, lab: Lab) -> dict[str, float]:  # noqa: ARG002
        looked = {f"test {self.labeller_name}": self.count} if self.labeller else {}
        return {f"draw {self.generator.model}": self.count, **looked}

    def run(self, bench: Bench) -> dict[str, Any]:
        cls = bench.lab.models[self.generator.model]
        model = load(bench.records.made(self.generator), device=bench.lab.device, model_class=cls)
        each = -(-self.count // model.num_classes)
        kept: list[list[Tensor]] = [[] for _ in range(model.num_classes)]
        labels = (
            torch.arange(round(each * model.num_classes * (self.draws if self.labeller else 1))) % model.num_classes
        )
        judge = self.labeller.model(bench) if self.labeller else None
        drawn, part = 0, f"draw {self.generator.model}"
        batches = sample_batches(model, labels, seed=self.seed, **sampling_knobs(self.generator.model, cls))
        while min(map(len, kept)) < each and drawn < len(labels):
            with bench.work.part(part, min(BATCH, len(labels) - drawn)):
                images = next(batches)
            asked = labels[drawn : drawn + len(images)]
            drawn += len(images)
            for image, label in self._passing(bench, judge, images, asked):
                if len(kept[label]) < each:
                    kept[label].append(image)
            bench.say(min(map(len, kept)) / each)
        fewest = min(map(len, kept))
        if not fewest:
            raise MnistgenError(
                f"{self.name}: of {drawn} images, none of class {min(range(len(kept)), key=lambda c: len(kept[c]))} is "
                f"seen as such with a confidence of {self.least}. Ask for less with --filter."
            )
        images = torch.stack([image for row in zip(*(row[:fewest] for row in kept), strict=True) for image in row])
        found = torch.arange(len(images)) % model.num_classes
        write_images(bench.records.made(self), images, found)
        return {"images": len(images), "drawn": drawn, "kept": len(images) / drawn}

    def images(self, bench: Bench, count: int) -> Dataset:
        """The first `count` of the images, or all where the filter left fewer."""
        data = read_images(bench.records.made(self), bench.lab.train.num_classes, self.generator.model)
        return data.subset(torch.arange(min(count, len(data))))

    def _passing(
        self, bench: Bench, judge: Classifier | None, images: Tensor, labels: Tensor
    ) -> Iterator[tuple[Tensor, int]]:
        """The images that the judge sees as what was asked for, confidently enough, with their labels."""
        if judge is not None:
            with bench.work.part(f"test {self.labeller_name}", len(images)):
                probabilities = extract(judge, images, layers=["logits"])["logits"].softmax(1)
            passes = probabilities[torch.arange(len(labels)), labels] >= self.least
            images, labels = images[passes], labels[passes]
        return zip(images, labels.tolist(), strict=True)

    @property
    def labeller_name(self) -> str:
        """The classifier that filters; empty where nothing does."""
        return self.labeller.classifier if self.labeller else ""


@dataclass(frozen=True)
class Classify(Cell):
    """A classifier of one arm, and its accuracy on the test split."""

    kind = "accuracy"
    trainings = 1
    numbers = ("accuracy", "errors", "images", "other_images", "real_share")
    classifier: str
    config: str
    arm: str
    subset: Subset
    steps: int
    seed: int
    batch: int
    real: int  # images of a batch that are the subset's
    ratio: float = 0.0  # other images for each of the subset's; 0: none, or as many as there are
    draw: Draw | None = None
    pool: Pool | None = None
    further: int = 0  # further real images of each class

    @property
    def name(self) -> str:
        where = f"{self.subset.name}-{self.classifier}-{self.arm}"
        made = f"-{self.draw.generator.model}" if self.draw else ""
        return f"{where}{made}{f'-x{self.ratio:g}' if self.ratio else ''}"

    def needs(self) -> tuple[Cell, ...]:
        return (self.draw,) if self.draw else (self.pool.labeller,) if self.pool else ()

    def amounts(self, lab: Lab) -> dict[str, float]:
        looked = len(lab.test) + (self.pool.images if self.pool and not self.draw else 0)
        return {f"train {self.classifier}": self.steps, f"test {self.classifier}": looked}

    def spec(self) -> dict[str, Any]:
        spec = asdict(self)
        if self.draw:  # more images for a larger ratio change nothing here
            del spec["draw"]["count"]
        return spec

    def run(self, bench: Bench) -> dict[str, Any]:
        subset = bench.images(self.subset)
        other, about = self._other(bench, subset)
        data, parts = subset, None
        if other is not None and not self.real:
            data = other
        elif other is not None and len(other):
            data = joined(subset, other)
            parts = [Part(len(subset), self.real), Part(len(other), self.batch - self.real)]
        model = build_classifier(self.classifier, data.num_classes, seed=self.seed, **json.loads(self.config))
        with bench.work.part(f"train {self.classifier}", self.steps):
            model = bench.lab.fit(model, data, steps=self.steps, seed=self.seed, parts=parts, say=bench.say)
        with bench.work.part(f"test {self.classifier}", len(bench.lab.test)):
            found = evaluate(model, bench.lab.test)
        return {
            "accuracy": found.accuracy,
            "errors": len(found.labels) - found.correct,
            "images": len(subset) if self.real else 0,
            "other_images": 0 if other is None else len(other),
            "real_share": self.real / self.batch if parts or not self.real else 1.0,
            **about,
        }

    def _other(self, bench: Bench, subset: Dataset) -> tuple[Dataset | None, dict[str, Any]]:
        """The images beside the subset's, and what the record should say of them."""
        if self.draw:
            generator = self.draw.generator
            if generator.regime == "subset":
                trained_on = bench.record(generator).result["trained_on"]
                check_trained_on(trained_on, subset, f"The generator {generator.name}")
            return self.draw.images(bench, round(self.ratio * len(subset))), {}
        if self.pool:
            return self.pool.labelled(bench)
        if self.further:
            subsets = bench.lab.subsets(self.subset.repetition)
            return subsets.take(self.further, skip=self.subset.per_class or 0), {}
        return None, {}


@dataclass(frozen=True)
class Nearest(Cell):
    """The nearest neighbour in pixels, among the subset or among its nine shifts: a number that is known."""

    kind = "nearest neighbour"
    numbers = ("accuracy", "errors", "images")
    subset: Subset
    shifted: bool

    @property
    def name(self) -> str:
        return f"{self.subset.name}-nearest{'-shifted' if self.shifted else ''}"

    def needs(self) -> tuple[Cell, ...]:
        return ()

    def amounts(self, lab: Lab) -> dict[str, float]:
        return {"compare images": compared(len(lab.test), self.subset.images * (9 if self.shifted else 1))}

    def run(self, bench: Bench) -> dict[str, Any]:
        data = bench.images(self.subset)
        images, labels = data.images, data.y
        if self.shifted:
            images, labels = shifts(images), labels.repeat(9)
        test = bench.lab.test
        with bench.work.part("compare images", compared(len(test), len(images))):
            found = nearest(pixels(test.images), pixels(images)).indices[:, 0]
        right = int((labels[found] == test.y).sum())
        return {"accuracy": right / len(test), "errors": len(test) - right, "images": len(images)}


def joined(first: Dataset, second: Dataset) -> Dataset:
    """The images of both, those of the first before those of the second."""
    images = torch.cat([first.images, second.images.to(first.images.device)])
    labels = torch.cat([first.y, second.y.to(first.y.device)])
    return Dataset(images, labels, first.num_classes, first.name, "train")


def compared(queries: int, points: int) -> float:
    """The work of finding nearest neighbours: with 1,000 points, finding candidates takes as long as ranking them."""
    return queries * (1 + points / 1000)


def shifts(images: Tensor) -> Tensor:
    """The images, each moved by at most a pixel each way, on black: (n, 1, h, w) -> (9 n, 1, h, w)."""
    height, width = images.shape[-2:]
    wide = torch.nn.functional.pad(images, (1, 1, 1, 1))
    return torch.cat([wide[..., i : i + height, j : j + width] for i in range(3) for j in range(3)])


def write_images(path: Path, images: Tensor, labels: Tensor) -> None:
    """Write (n, 1, 28, 28) uint8 and (n,) int64 as an NPZ."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=images.numpy(), labels=labels.numpy())


def read_images(path: Path, num_classes: int, name: str) -> Dataset:
    """What `write_images` wrote. Raises `MnistgenError` where that is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise MnistgenError(
            f"{path}: these images are damaged: {error}. Remove the file to draw them again."
        ) from error
    return Dataset(images, labels, num_classes, name, "synthetic")
