"""The loop: a generator trained on what its predecessor drew, generation by generation.

Generation 0 sees the subset. What the next ones see is the mode's: only what the one before drew (replace; Shumailov et
al. 2024), the subset and all that has been drawn since (accumulate; Gerstgrasser et al. 2024), or what the one before
drew and as many real images that no generation has seen (fresh; Alemohammad et al. 2024). A generation starts from
weights of its own and is trained for the same number of steps. Where a model has a guidance knob, there is a loop with
guidance and one without.
"""

import inspect
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack, get_args

import torch

from mnistgen.building import build
from mnistgen.checkpoint import save
from mnistgen.console import Display
from mnistgen.data import ConversionKeywords, Dataset
from mnistgen.errors import UsageError, suggestion
from mnistgen.experiments import recipe
from mnistgen.experiments.cells import Bench, Cell, Subset, joined, read_images, write_images
from mnistgen.experiments.crew import crew
from mnistgen.experiments.design import Size
from mnistgen.experiments.lab import Lab
from mnistgen.experiments.recipe import Mode
from mnistgen.experiments.records import Records
from mnistgen.experiments.runner import Failure, Runner
from mnistgen.experiments.statistics import Interval, t_interval
from mnistgen.experiments.study import Models, describe, find_models, load_splits, open_records, prepare
from mnistgen.experiments.subsets import check_exactly, seed_of
from mnistgen.model import BaseConfig, GenerativeModel
from mnistgen.sampling import sample
from mnistgen.scoring import Scorer
from mnistgen.scoring.classifiers import CAS_STEPS, learn
from mnistgen.scoring.panel import PENULTIMATE
from mnistgen.scoring.scale import FLOOR
from mnistgen.training import resolve_device

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


def loop(
    models: Models,
    *,
    generations: int = 5,
    mode: Mode = "replace",
    per_class: Sequence[Size] = (100,),
    seeds: int = 1,
    guidance: float | None = None,
    generator_steps: int | None = None,
    scored: int = recipe.LOOP_IMAGES,
    cas_steps: int = CAS_STEPS,
    configs: dict[str, BaseConfig] | None = None,
    data: str | tuple[Dataset, Dataset] = "mnist",
    scorer: Scorer | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    data_dir: Path | str | None = None,
    budget: float | None = None,
    quiet: bool = True,
    say: Callable[[str], None] | None = None,
    only_plan: bool = False,
    **how: Unpack[ConversionKeywords],
) -> Loop:
    """Train models on their own output for so many generations after the first, and write what becomes of them.

    `per_class`: sizes of the real subset, or "all". `guidance` is the value of the knob with
    guidance (default: the model's own). `scored` samples of each generation are scored by `scorer` (default: that of
    the dataset). The rest is as for `augment`.

    Raises `UsageError` where that makes no sense, for example where fresh images run out.
    """
    if mode not in get_args(Mode):
        raise UsageError(f"There is no mode {mode!r}. {suggestion(mode, get_args(Mode))}")
    for name, value in (("--loop", generations), ("--seeds", seeds)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1.")
    chosen = find_models(models)
    train, test = load_splits(data, data_dir=data_dir, **how)
    us = crew()
    where = resolve_device(device)
    scorer = scorer or Scorer(data if isinstance(data, str) else train.name, device=where, data_dir=data_dir)
    lab = Lab(train, test, chosen, seed=seed, device=where, precision=precision, scorer=scorer)
    scored = min(scored, len(test))
    judges = json.dumps(dict(scorer.panel.hashes), sort_keys=True)
    cells: list[Generation] = []
    for repetition in range(seeds):
        for size in (None if asked == "all" else asked for asked in per_class):
            if mode == "fresh":
                if size is None:
                    raise UsageError("--mode fresh needs images that no generation has seen: give a --per-class.")
                lab.subsets(repetition).take(size, skip=generations * size)  # refuses where there are too few
            images = lab.subsets(repetition).take(size)
            subset = Subset(repetition, size, len(images), images.hash)
            for model, cls in chosen.items():
                config = ((configs or {}).get(model) or recipe.generator_config(model, cls)).to_json()
                for knobs in guidances(cls, guidance):
                    previous = None
                    for number in range(generations + 1):
                        previous = Generation(
                            model=model,
                            config=config,
                            mode=mode,
                            guidance=knobs,
                            number=number,
                            subset=subset,
                            steps=generator_steps or recipe.generator_steps(len(images)),
                            seed=seed_of(seed, repetition, size, model, "generation", number),
                            scored=scored,
                            cas_steps=cas_steps,
                            judges=judges,
                            previous=previous,
                        )
                        cells.append(previous)
    real = RealImages(scored, cas_steps)
    everything: tuple[Cell, ...] = (real, *cells)
    folder = Path(out) if out else Path("runs") / f"loop-{train.name}"
    records = open_records(folder, lab.frame, us, everything, make=not only_plan)
    costs = prepare(lab, records, everything)
    if us.rank == 0 and say is not None:
        lines = {
            "question": f"what becomes of a model of {train.name} that is trained on its own output?",
            "models": ", ".join(chosen),
            "sizes": f"{', '.join(map(str, per_class))} real images a class, {seeds} times each",
            "loop": f"{generations} generations after the first, mode {mode}",
        }
        describe(lines, everything, train.notes, records, costs, us, say)
    failures: list[Failure] = []
    if not only_plan:
        # A process takes a loop, for its generations come one after another: what is handed out is the last one.
        lasts = [cell for cell in cells if cell.number == generations]
        display = Display("loop", quiet=quiet or us.rank != 0)
        runner = Runner(lab, records, us, costs, display=display, budget=budget)
        failures = runner.run((real, *lasts), everything)
    done = [cell for cell in cells if records.get(cell) is not None]
    found = Loop(
        mode=mode,
        generations=generations,
        seeds=seeds,
        models=tuple(chosen),
        guidance=guidance,
        generator_steps=generator_steps,
        lab=lab,
        records=records,
        lines=_lines(cells, records),
        real=_real(real, cells, records),
        failures=failures,
        missing=sum(records.get(cell) is None for cell in everything),
        steps={str(cell.subset.per_class or "all"): cell.steps for cell in cells},
        cells=done,
        protocol=next((str(record.result["protocol"]) for cell in done if (record := records.get(cell))), ""),
    )
    if us.rank == 0 and not only_plan:
        from mnistgen.experiments.generations_report import write_loop  # imports Matplotlib

        write_loop(found)
    return found


def guidances(cls: type[GenerativeModel], value: float | None = None) -> list[tuple[tuple[str, float], ...]]:
    """Without guidance, and with it, for a model that has such a knob; as it is, for another one."""
    for parameter in inspect.signature(cls.sample).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name in recipe.GUIDANCE_OFF:
            off = recipe.GUIDANCE_OFF[parameter.name]
            on = value
            if on is None:
                on = float(parameter.default) if parameter.default != off else off + 1.0
            if on == off:
                raise UsageError(f"--guidance {on:g} is no guidance for {cls.__name__}; give another value.")
            return [((parameter.name, off),), ((parameter.name, on),)]
    return [()]


def _lines(cells: Sequence[Generation], records: Records) -> list[Line]:
    found: dict[tuple[str, int | None, str, int], dict[str, list[float]]] = {}
    for cell in cells:
        record = records.get(cell)
        if record is None:
            continue
        guided = ", ".join(
            "without guidance" if value == recipe.GUIDANCE_OFF[knob] else f"{knob} {value:g}"
            for knob, value in cell.guidance
        )
        numbers = found.setdefault((cell.model, cell.subset.per_class, guided, cell.number), {})
        for name in TITLES:
            if (value := record.result.get(name)) is not None:
                numbers.setdefault(name, []).append(float(value))
    return [
        Line(*key, {name: t_interval(values, within=RANGES[name]) for name, values in numbers.items()})
        for key, numbers in found.items()
    ]


def _real(cell: RealImages, cells: Sequence[Generation], records: Records) -> dict[str, float]:
    """What real images get, as far as that is known."""
    record = records.get(cell)
    found = {"cas": float(record.result["cas"])} if record else {}
    for generation in cells:
        done = records.get(generation)
        if done is not None:
            found |= {name: float(value) for name, value in done.result["floor"].items() if value is not None}
            break
    return found
