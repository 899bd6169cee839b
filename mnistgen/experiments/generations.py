"""The loop: a generator trained on what its predecessor drew, generation by generation.

Generation 0 sees the subset. What the next ones see is the mode's: only what the one before drew (replace; Shumailov et
al. 2024), the subset and all that has been drawn since (accumulate; Gerstgrasser et al. 2024), or what the one before
drew and as many real images that no generation has seen (fresh; Alemohammad et al. 2024). A generation starts from
weights of its own and is trained for the same number of steps. Where a model has a guidance knob, there is a loop with
guidance and one without.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mnistgen.building import build
from mnistgen.checkpoint import save
from mnistgen.data import Dataset
from mnistgen.experiments.cells import Bench, Cell, Subset, joined, read_images, write_images
from mnistgen.experiments.lab import Lab
from mnistgen.experiments.recipe import Mode
from mnistgen.experiments.records import Records
from mnistgen.experiments.runner import Failure
from mnistgen.experiments.statistics import Interval
from mnistgen.experiments.subsets import check_exactly
from mnistgen.sampling import sample
from mnistgen.scoring.classifiers import learn
from mnistgen.scoring.evaluators import PENULTIMATE
from mnistgen.scoring.scale import FLOOR

NUMBERS = {"fid": f"fid.{PENULTIMATE}", "coverage": f"coverage.{PENULTIMATE}"}  # by the names of a score
TITLES = {"fid": "FID", "coverage": "coverage", "cas": "CAS"}
RANGES = {"fid": (0.0, math.inf), "coverage": (0.0, 1.0), "cas": (0.0, 1.0)}
REAL = "real images"


@dataclass(frozen=True)
class Generation(Cell):
    """One generation: trained, drawn from, and scored."""

    kind = "generation"
    trainings = 2  # the generator, and the classifier of its images that is the CAS
    suffix = ".npz"
    numbers = ("images", "cas")
    texts = ("protocol",)
    model: str
    config: str
    mode: Mode
    guidance: tuple[tuple[str, float], ...]  # the knob and its value; none: the model has no such knob
    number: int
    subset: Subset
    steps: int
    seed: int
    scored: int
    cas_steps: int
    judges: str  # the hashes of the evaluators
    previous: "Generation | None"

    @property
    def knobs(self) -> dict[str, Any]:
        """What `sample` is to be called with."""
        return dict(self.guidance)

    @property
    def name(self) -> str:
        return f"{self.subset.name}-{self.chain}-generation-{self.number}"

    @property
    def chain(self) -> str:
        """What its loop is called, whatever the subset."""
        return f"{self.model}-{self.mode}" + "".join(f"-{knob}-{value:g}" for knob, value in self.guidance)

    def needs(self) -> tuple[Cell, ...]:
        return (self.previous,) if self.previous else ()

    def amounts(self, lab: Lab) -> dict[str, float]:  # noqa: ARG002
        drawn = max(self.scored, self.subset.images)
        return {
            f"train {self.model}": self.steps,
            f"draw {self.model}": drawn,
            "score images": self.scored,
            "learn cnn": self.cas_steps,
        }

    def run(self, bench: Bench) -> dict[str, Any]:
        data, work, lab = self.training_images(bench), bench.work, bench.lab
        cls = lab.models[self.model]
        model = build(cls, cls.Config.from_json(self.config), data.num_classes, seed=self.seed)
        with work.part(f"train {self.model}", self.steps):
            model = lab.fit(model, data, steps=self.steps, seed=self.seed, say=lambda done: bench.say(0.4 * done))
        labels = torch.arange(max(self.scored, self.subset.images)) % data.num_classes
        with work.part(f"draw {self.model}", len(labels)):
            images = sample(model, labels, seed=self.seed, **self.knobs)
        drawn = Dataset(images, labels, data.num_classes, self.model, "synthetic")
        bench.say(0.5)
        found = judge(bench, drawn.subset(torch.arange(self.scored)), self.cas_steps)
        write_images(bench.records.made(self), images, labels)
        save(
            bench.records.made(self).with_suffix(".safetensors"), model, dataset=data, steps=self.steps, seed=self.seed
        )
        return {"images": len(data), **found}

    def training_images(self, bench: Bench) -> Dataset:
        """What this generation is trained on."""
        data = bench.images(self.subset)
        if self.previous is None:
            check_exactly(data, data, self.name)
            return data
        if self.mode == "accumulate":
            older, everything = self.previous, data
            while True:
                everything = joined(everything, older.drawn(bench))
                if older.previous is None:
                    return everything
                older = older.previous
        drawn = self.previous.drawn(bench)
        if self.mode == "replace":
            return drawn
        each = self.subset.per_class or 0
        return joined(drawn, bench.lab.subsets(self.subset.repetition).take(each, skip=self.number * each))

    def drawn(self, bench: Bench) -> Dataset:
        """As many of its images as the subset has."""
        data = read_images(bench.records.made(self), bench.lab.train.num_classes, self.model)
        return data.subset(torch.arange(self.subset.images))


@dataclass(frozen=True)
class RealImages(Cell):
    """What the classification accuracy score of as many real training images is."""

    kind = "real images"
    trainings = 1
    numbers = ("cas",)
    scored: int
    cas_steps: int

    @property
    def name(self) -> str:
        return "real-images"

    def needs(self) -> tuple[Cell, ...]:
        return ()

    def amounts(self, lab: Lab) -> dict[str, float]:  # noqa: ARG002
        return {"learn cnn": self.cas_steps}

    def run(self, bench: Bench) -> dict[str, Any]:
        lab = bench.lab
        real = lab.subsets(0).take(min(-(-self.scored // lab.train.num_classes), lab.subsets(0).least))
        with bench.work.part("learn cnn", self.cas_steps):
            found = learn(real, lab.test, seed=lab.seed, device=lab.device, steps=self.cas_steps)
        return {"cas": found.accuracy}


def judge(bench: Bench, drawn: Dataset, cas_steps: int) -> dict[str, Any]:
    """FID, coverage and label agreement, as `mnistgen score` has them, with the floor; and CAS."""
    lab = bench.lab
    assert lab.scorer is not None
    with bench.work.part("score images", len(drawn)):
        score = lab.scorer.score((drawn.images, drawn.labels), n=len(drawn), seed=lab.seed)
    floor = score.scale.get(FLOOR, {}).get("mean", {})
    bench.say(0.7)
    with bench.work.part("learn cnn", cas_steps):
        cas = learn(drawn, lab.test, seed=lab.seed, device=lab.device, steps=cas_steps)
    return {
        **{name: score.numbers.get(number) for name, number in NUMBERS.items()},
        "cas": cas.accuracy,
        "label_agreement": score.numbers.get("label_agreement"),
        "floor": {name: floor.get(number) for name, number in NUMBERS.items()},
        "protocol": score.protocol_line,
    }


@dataclass(frozen=True)
class Line:
    """One generation of one loop, over its repetitions."""

    model: str
    per_class: int | None
    guidance: str  # "without", "guidance 0.5", or "" of a model that has no such knob
    generation: int
    numbers: dict[str, Interval]  # fid, coverage, cas


@dataclass(frozen=True, eq=False)
class Loop:
    """A loop study as far as it has come."""

    mode: Mode
    generations: int
    seeds: int
    models: tuple[str, ...]
    guidance: float | None  # as it was asked for; None: the model's own
    generator_steps: int | None  # likewise
    lab: Lab
    records: Records
    lines: list[Line]
    real: dict[str, float]  # fid and coverage of real images, and their CAS, as far as they are known
    failures: list[Failure]
    missing: int
    steps: dict[str, int]  # of a generation, by size
    cells: list[Generation]  # those that are done
    protocol: str  # of their scores; empty before the first one

    @property
    def folder(self) -> Path:
        """Where the records and the reports are."""
        return self.records.folder
