"""From what is asked for to the tasks that answer it, and how long those take."""

import inspect
import json
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal, cast, get_args

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
    Regime,
    SampleImages,
    StudyContext,
    Subset,
    TrainGenerator,
    TrainLabeller,
)
from mnistgen.model import BaseConfig, GenerativeModel
from mnistgen.scoring.classifiers import CAS_STEPS
from mnistgen.transforms import Distortion

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
        self.require_distinct(models="model", per_class="size")
        self.require("per_class", lambda n: n == "all" or (isinstance(n, int) and n > 0), "a number of images, or all")
        self.require_positive("seeds", "generator_steps")

    @abstractmethod
    def plan(self, context: StudyContext) -> "Plan":
        """The tasks of the study."""

    def require(self, name: str, holds: Callable[[Any], bool], says: str) -> None:
        """Raise `UsageError` where a field, or one of its values, is not what it must be, as `says` has it."""
        found = getattr(self, name)
        for value in found if isinstance(found, tuple | list) else (found,):
            if not holds(value):
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be {says}.")

    def require_positive(self, *names: str) -> None:
        """Raise `UsageError` for a number that is given and less than 1."""
        for name in names:
            self.require(name, lambda value: value is None or value >= 1, "at least 1")

    def require_distinct(self, **names: str) -> None:
        """Raise `UsageError` where a field has no values, or one of them twice; the fields with what to call one."""
        for name, what in names.items():
            values = getattr(self, name)
            if not values:
                raise UsageError(f"A study needs at least one {what}.")
            if len(set(values)) != len(values):
                raise UsageError(f"A {what} is named twice: {' '.join(map(str, values))}.")

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
        self.require_distinct(ratio="ratio", classifiers="classifier")
        self.require("ratio", lambda n: 0 < n < math.inf, "a number of synthetic images for each real one, above 0")
        self.require("real_fraction", lambda f: f == "ratio" or 0 < f < 1, "above 0 and below 1, or ratio")
        self.require("filter", lambda least: 0 <= least < 1, "a confidence of at least 0 (no filter) and below 1")
        self.require_positive("pool", "classifier_steps")
        for name in self.classifiers:
            if name not in CLASSIFIER:
                raise UsageError(f"There is no classifier {name!r} in a study. {suggestion(name, CLASSIFIER)}")
        object.__setattr__(self, "conditions", tuple(c.name for c in find_conditions(self.conditions)))

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
        self.require_positive("generations", "scored", "cas_steps")
        if self.mode == "fresh" and "all" in self.per_class:
            raise UsageError("--mode fresh needs images that no generation has seen: give a --per-class.")

    def plan(self, context: StudyContext) -> "Plan":
        assert context.scorer is not None
        scored, seed = min(self.scored, len(context.test)), context.seed
        judges = json.dumps(dict(context.scorer.evaluators.hashes), sort_keys=True)
        tasks: list[Task] = [RealImages(scored, self.cas_steps)]
        subsets = []
        for repetition, asked in product(range(self.seeds), self.per_class):
            size = None if asked == "all" else asked
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
        self.context = context
        self.failed: dict[str, str] = {}  # work that could not be tried, and why
        seconds, amounts = defaultdict[str, float](float), defaultdict[str, float](float)
        for task in everything:
            if record := context.cache.get(task):
                work, amount = task.cost()
                seconds[work] += record.seconds
                amounts[work] += amount
        self._rates = {work: seconds[work] / amounts[work] for work in seconds}

    def __call__(self, task: Task) -> float:
        """The estimate for a task, without those it depends on."""
        work, amount = task.cost()
        if work not in self._rates:
            try:
                self._rates[work] = task.trial(self.context)
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
            config=_config(classifier, condition.distortion),
            condition=condition.name,
            subset=self.subset,
            steps=self.steps + (self.generator_steps if condition.repeated else 0),
            # The same in every condition: first weights, the order of the subset's images, and the noise of each step.
            seed=self._seed("classifier", classifier),
            batch=protocol.BATCH,
            real=self._real(condition, 0.0),
        )
        if condition.other == "pseudo-labels":
            yield replace(plain, pool=self.pool)
        elif not condition.other:
            yield plain
        models = self.design.models if condition.generated else ("",) if condition.other == "real" else ()
        for model, ratio in product(models, self.design.ratio):
            other = replace(plain, ratio=ratio, real=self._real(condition, ratio))
            if model:
                yield replace(other, samples=self._samples(condition, model))
            elif further := self._further(ratio):
                yield replace(other, further=further)

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
            labeller=self.labeller if self.design.filter else None,
        )

    def _generator(self, condition: Condition, model: str) -> TrainGenerator:
        regime = cast(Regime, condition.other)
        everything = regime == "everything"
        images = len(self.context.train) if everything else self.subset.images
        shared = seed_of(self.context.seed, "generator", model, "everything")
        return TrainGenerator(
            model=model,
            config=self.design.config(model, self.context),
            regime=regime,
            steps=self.design.generator_steps or protocol.generator_steps(images),
            seed=shared if everything else self._seed("generator", model),
            subset=None if everything else self.subset,
            pool=self.pool if regime == "pool" else None,
        )

    @cached_property
    def labeller(self) -> TrainLabeller:
        return TrainLabeller(
            subset=self.subset,
            classifier=protocol.LABELLER,
            config=_config(protocol.LABELLER, protocol.ELASTIC),
            steps=self.steps,
            seed=self._seed("labeller"),
        )

    @cached_property
    def pool(self) -> Pool:
        return Pool(self.labeller, self.design.pool, protocol.CONFIDENT)

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


def _config(classifier: str, distortion: Distortion) -> str:
    return json.dumps(CLASSIFIER[classifier] | asdict(distortion), sort_keys=True)


def guidances(cls: type[GenerativeModel], value: float | None = None) -> list[tuple[tuple[str, float], ...]]:
    """Without guidance, and with it, for a model that has such a sampling parameter; as it is, for another one."""
    parameters = inspect.signature(cls.sample).parameters
    for name, off in protocol.GUIDANCE_OFF.items():
        if name in parameters and parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
            default = parameters[name].default
            on = value if value is not None else float(default) if default != off else off + 1.0
            if on == off:
                raise UsageError(f"--guidance {on:g} is no guidance for {cls.__name__}; give another value.")
            return [((name, off),), ((name, on),)]
    return [()]
