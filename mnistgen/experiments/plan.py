"""From what is asked for to the tasks that answer it, and how long those take."""

import dataclasses
import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from mnistgen.errors import MnistgenError, UsageError, described, suggestion
from mnistgen.experiments import protocol
from mnistgen.experiments.cache import Task, with_dependencies
from mnistgen.experiments.protocol import CLASSIFIER, CLASSIFIERS, DEFAULT_CONDITIONS, Condition, Mode, find_conditions
from mnistgen.experiments.subsets import seed_of
from mnistgen.experiments.tasks import (
    Classify,
    Generation,
    NearestNeighbour,
    Pool,
    RealImages,
    SampleImages,
    StudyContext,
    Subset,
    TrainGenerator,
    TrainLabeller,
)
from mnistgen.model import BaseConfig, GenerativeModel
from mnistgen.scoring.classifiers import CAS_STEPS

Size = int | Literal["all"]


@dataclass(frozen=True, kw_only=True)
class Question(ABC):
    """What is asked of a study, whatever it is about. Raises `UsageError` where that makes no sense."""

    models: tuple[str, ...]
    per_class: tuple[Size, ...]
    seeds: int
    generator_steps: int | None = None
    configs: Mapping[str, BaseConfig] = field(default_factory=dict, hash=False)  # of models; else the protocol's

    def __post_init__(self) -> None:
        for name, values in (("model", self.models), ("size", self.per_class)):
            check_distinct(name, values)
        for size in self.per_class:
            if size != "all" and (not isinstance(size, int) or size < 1):
                raise UsageError(f"--per-class {size}: it is a number of images, or all.")
        self.check_positive("seeds", "generator_steps")

    @abstractmethod
    def describe(self, dataset: str) -> dict[str, str]:
        """What is asked, of what, and how, as titles and lines."""

    @abstractmethod
    def plan(self, context: StudyContext) -> "Plan":
        """The tasks of the study."""

    def check_positive(self, *names: str) -> None:
        """Raise `UsageError` for a number that is less than 1."""
        for name in names:
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")

    def config(self, model: str, context: StudyContext) -> str:
        """The hyperparameters of a model."""
        config = self.configs.get(model) or protocol.generator_config(model, context.models[model])
        return config.to_json()

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return vars(self) | {"configs": {name: asdict(config) for name, config in self.configs.items()}}


@dataclass(frozen=True, kw_only=True)
class Design(Question):
    """What an augmentation study compares."""

    per_class: tuple[Size, ...] = protocol.SIZES
    ratio: tuple[float, ...] = (protocol.RATIO,)
    seeds: int = protocol.SEEDS
    classifiers: tuple[str, ...] = CLASSIFIERS
    conditions: tuple[str, ...] = DEFAULT_CONDITIONS
    real_fraction: float | Literal["ratio"] = protocol.REAL_FRACTION
    filter: float = 0.0
    pool: int = protocol.POOL
    classifier_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct("ratio", self.ratio)
        for ratio in self.ratio:
            if not 0 < ratio < math.inf:
                raise UsageError(f"--ratio {ratio}: it is a number of synthetic images for each real one, above 0.")
        for name in self.classifiers:
            if name not in CLASSIFIER:
                raise UsageError(f"There is no classifier {name!r} in a study. {suggestion(name, CLASSIFIER)}")
        check_distinct("classifier", self.classifiers)
        if self.real_fraction != "ratio" and not 0 < self.real_fraction < 1:
            raise UsageError(f"--real-fraction {self.real_fraction}: it is above 0 and below 1, or ratio.")
        if not 0 <= self.filter < 1:
            raise UsageError(f"--filter {self.filter}: it is a confidence of at least 0 (no filter) and below 1.")
        self.check_positive("pool", "classifier_steps")
        object.__setattr__(self, "conditions", tuple(c.name for c in find_conditions(self.conditions)))

    def describe(self, dataset: str) -> dict[str, str]:
        ratios = ", ".join(f"{ratio:g}" for ratio in self.ratio)
        return {
            "question": f"does synthetic data help to train a classifier of {dataset} on few real images?",
            "models": ", ".join(self.models),
            "classifiers": ", ".join(self.classifiers),
            "sizes": f"{', '.join(map(str, self.per_class))} real images per class, {self.seeds} times each; {ratios} "
            "synthetic images for each",
            "conditions": "; ".join(condition.title for condition in find_conditions(self.conditions)),
        }

    def plan(self, context: StudyContext) -> "Plan":
        """The tasks, repetition by repetition, so that what is done first can be compared already."""
        sizes = [None if size == "all" else size for size in self.per_class]
        makers = [_Maker(self, context, repetition, size) for repetition in range(self.seeds) for size in sizes]
        tasks = [task for maker in makers[: len(sizes)] for task in maker.leaking()]  # long, and shared by all
        for maker in makers:
            tasks += maker.tasks()
        notes = dict.fromkeys(note for maker in makers for note in maker.notes)
        return Plan(tuple(dict.fromkeys(tasks)), tuple(maker.subset for maker in makers), tuple(notes))


@dataclass(frozen=True, kw_only=True)
class LoopDesign(Question):
    """What becomes of models that are trained on their own output, with guidance and without where they have it."""

    per_class: tuple[Size, ...] = (100,)
    seeds: int = 1
    generations: int = 5
    mode: Mode = "replace"
    guidance: float | None = None  # None: the model's own
    scored: int = protocol.LOOP_IMAGES
    cas_steps: int = CAS_STEPS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in get_args(Mode):
            raise UsageError(f"There is no mode {self.mode!r}. {suggestion(self.mode, get_args(Mode))}")
        self.check_positive("generations", "scored", "cas_steps")
        if self.mode == "fresh" and "all" in self.per_class:
            raise UsageError("--mode fresh needs images that no generation has seen: give a --per-class.")

    def describe(self, dataset: str) -> dict[str, str]:
        return {
            "question": f"what becomes of a model of {dataset} that is trained on its own output?",
            "models": ", ".join(self.models),
            "sizes": f"{', '.join(map(str, self.per_class))} real images per class, {self.seeds} times each",
            "training": f"{self.generations} generations after the first, mode {self.mode}",
        }

    def plan(self, context: StudyContext) -> "Plan":
        assert context.scorer is not None
        scored, seed = min(self.scored, len(context.test)), context.seed
        judges = json.dumps(dict(context.scorer.evaluators.hashes), sort_keys=True)
        tasks: list[Task] = [RealImages(scored, self.cas_steps)]
        subsets = []
        for repetition in range(self.seeds):
            for size in (None if asked == "all" else asked for asked in self.per_class):
                if self.mode == "fresh":  # refused where there are too few
                    context.subsets(repetition).take(size, skip=self.generations * (size or 0))
                subset = context.subset(repetition, size)
                subsets.append(subset)
                for model in self.models:
                    for guidance in guidances(context.models[model], self.guidance):
                        previous = None
                        for number in range(self.generations + 1):
                            previous = Generation(
                                model=model,
                                config=self.config(model, context),
                                mode=self.mode,
                                guidance=guidance,
                                number=number,
                                subset=subset,
                                steps=self.generator_steps or protocol.generator_steps(subset.images),
                                seed=seed_of(seed, repetition, size, model, "generation", number),
                                scored=scored,
                                cas_steps=self.cas_steps,
                                judges=judges,
                                previous=previous,
                            )
                            tasks.append(previous)
        return Plan(tuple(tasks), tuple(subsets))


@dataclass(frozen=True)
class Plan:
    """The tasks of a study in the order in which they are started, and why some conditions have none."""

    tasks: tuple[Task, ...]
    subsets: tuple[Subset, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def everything(self) -> tuple[Task, ...]:
        """The tasks and all that they depend on, each once, and after what it depends on."""
        return tuple(dict.fromkeys(found for task in self.tasks for found in with_dependencies(task)))


class Costs:
    """Seconds of any task: by what has been recorded of the same work, else by a trial of it on this device."""

    def __init__(self, context: StudyContext, everything: tuple[Task, ...]) -> None:
        self._context, self._trials = context, dict[str, float]()
        self.failed: dict[str, str] = {}  # work that could not be tried, and why
        totals: dict[str, tuple[float, float]] = {}
        for task in everything:
            if record := context.cache.get(task):
                work, amount = task.cost()
                seconds, amounts = totals.get(work, (0.0, 0.0))
                totals[work] = seconds + record.seconds, amounts + amount
        self._rates = {work: seconds / amounts for work, (seconds, amounts) in totals.items()}

    def __call__(self, task: Task) -> float:
        """The estimate for a task, without those it depends on."""
        work, amount = task.cost()
        if work not in self._rates:
            try:
                self._rates[work] = task.trial(self._context)
            except Exception as error:  # noqa: BLE001  a plugin may raise anything; its tasks will tell, the others count
                self.failed[work] = str(error) if isinstance(error, MnistgenError) else described(error)
                self._rates[work] = 0.0
        return self._rates[work] * amount


class _Maker:
    """The tasks of one repetition at one size."""

    def __init__(self, design: Design, context: StudyContext, repetition: int, per_class: int | None) -> None:
        self.design, self.context, self.repetition, self.per_class = design, context, repetition, per_class
        self.subset = context.subset(repetition, per_class)
        self.steps = design.classifier_steps or protocol.classifier_steps(self.subset.images)
        self.generator_steps = design.generator_steps or protocol.generator_steps(self.subset.images)
        self.conditions = find_conditions(design.conditions)
        self.notes: list[str] = []

    def tasks(self) -> Iterator[Task]:
        """What is cheap and shared first, then condition by condition."""
        for most, shifted in ((protocol.MOST_NEAREST, False), (protocol.MOST_SHIFTED, True)):
            if self.subset.images <= most:
                yield NearestNeighbour(self.subset, shifted=shifted)
        for condition in self.conditions:
            if self.per_class is None and condition.other in ("everything", "pool", "pseudo-labels", "real"):
                self.notes.append(f"There is no condition {condition.name!r} at all images: none are left beside them.")
            else:
                for classifier in self.design.classifiers:
                    yield from self._classify(condition, classifier)

    def leaking(self) -> Iterator[Task]:
        """The generators that see everything, where a condition has them."""
        for condition in self.conditions:
            if self.per_class is not None and condition.other == "everything":
                yield from (self._generator(condition, model) for model in self.design.models)

    def _classify(self, condition: Condition, classifier: str) -> Iterator[Classify]:
        plain = Classify(
            classifier=classifier,
            config=json.dumps(CLASSIFIER[classifier] | asdict(condition.distortion), sort_keys=True),
            condition=condition.name,
            subset=self.subset,
            steps=self.steps + (self.generator_steps if condition.repeated else 0),
            # The same in every condition: first weights, the order of the subset's images, and the noise of each step.
            seed=self._seed("classifier", classifier),
            batch=protocol.BATCH,
            real=self._real(condition, 0.0),
        )
        if condition.other == "pseudo-labels":
            yield dataclasses.replace(plain, pool=self._pool())
        elif not condition.other:
            yield plain
        for model in self.design.models if condition.generated else ("",) if condition.other == "real" else ():
            for ratio in self.design.ratio:
                other = dataclasses.replace(plain, ratio=ratio, real=self._real(condition, ratio))
                if model:
                    yield dataclasses.replace(other, samples=self._samples(condition, model))
                elif further := self._further(ratio):
                    yield dataclasses.replace(other, further=further)

    def _real(self, condition: Condition, ratio: float) -> int:
        """Images of a batch that are the subset's."""
        if not condition.other:
            return protocol.BATCH
        batch, fraction = protocol.BATCH, self.design.real_fraction
        if fraction == "ratio":
            real = round(batch / (1 + ratio) if ratio else batch * protocol.REAL_FRACTION)
        else:
            real = round(batch * fraction)
        return min(max(real, 1), batch - 1) if condition.subset else 0

    def _samples(self, condition: Condition, model: str) -> SampleImages:
        return SampleImages(
            generator=self._generator(condition, model),
            subset=self.subset,
            count=round(max(self.design.ratio) * self.subset.images),
            seed=self._seed("images", model, condition.other),
            draws=protocol.DRAWS,
            least=self.design.filter,
            labeller=self._labeller() if self.design.filter else None,
        )

    def _generator(self, condition: Condition, model: str) -> TrainGenerator:
        everything, pool = condition.other == "everything", self._pool() if condition.other == "pool" else None
        seed, steps = self._seed("generator", model), self.generator_steps
        if everything:
            seed = seed_of(self.context.seed, "generator", model, "everything")
            steps = self.design.generator_steps or protocol.generator_steps(len(self.context.train))
        return TrainGenerator(
            model=model,
            config=self.design.config(model, self.context),
            regime="everything" if everything else "pool" if pool else "subset",
            steps=steps,
            seed=seed,
            subset=None if everything else self.subset,
            pool=pool,
        )

    def _labeller(self) -> TrainLabeller:
        config = json.dumps(CLASSIFIER[protocol.LABELLER] | asdict(protocol.ELASTIC), sort_keys=True)
        seed = self._seed("labeller")
        return TrainLabeller(
            subset=self.subset, classifier=protocol.LABELLER, config=config, steps=self.steps, seed=seed
        )

    def _pool(self) -> Pool:
        return Pool(self._labeller(), self.design.pool, protocol.CONFIDENT)

    def _further(self, ratio: float) -> int:
        """Further real images of each class for the ceiling: as many as there are synthetic, or as there are."""
        assert self.per_class is not None
        wanted = max(1, round(ratio * self.per_class))
        there = self.context.subsets(self.repetition).least - self.per_class
        if there < wanted:
            self.notes.append(
                f"More real: beside {self.per_class} per class there are {there} further images of the rarest class, "
                f"not {wanted}, so {'that condition has those' if there else 'there is no such condition'}."
            )
        return min(wanted, there)

    def _seed(self, *what: str) -> int:
        return seed_of(self.context.seed, self.repetition, self.per_class or "all", *what)


def guidances(cls: type[GenerativeModel], value: float | None = None) -> list[tuple[tuple[str, float], ...]]:
    """Without guidance, and with it, for a model that has such a sampling parameter; as it is, for another one."""
    for parameter in inspect.signature(cls.sample).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name in protocol.GUIDANCE_OFF:
            off = protocol.GUIDANCE_OFF[parameter.name]
            on = value
            if on is None:
                on = float(parameter.default) if parameter.default != off else off + 1.0
            if on == off:
                raise UsageError(f"--guidance {on:g} is no guidance for {cls.__name__}; give another value.")
            return [((parameter.name, off),), ((parameter.name, on),)]
    return [()]


def check_distinct(name: str, values: tuple[Any, ...]) -> None:
    """Raise `UsageError` where there are no values, or one is there twice."""
    if not values:
        raise UsageError(f"A study needs at least one {name}.")
    if len(set(values)) != len(values):
        raise UsageError(f"A {name} is named twice: {' '.join(map(str, values))}.")
