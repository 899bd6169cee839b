"""The design of a study: from what is asked for to the cells that answer it."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from mnistgen.errors import UsageError, suggestion
from mnistgen.experiments import recipe
from mnistgen.experiments.arms import DEFAULT_ARMS, Arm, arms_called
from mnistgen.experiments.cells import Cell, Classify, Draw, Label, Nearest, Pool, Subset, Train
from mnistgen.experiments.lab import Lab
from mnistgen.experiments.subsets import seed_of
from mnistgen.model import BaseConfig

Size = int | Literal["all"]


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a study compares. Raises `UsageError` where that makes no sense."""

    models: tuple[str, ...]
    per_class: tuple[Size, ...] = recipe.SIZES
    ratio: tuple[float, ...] = (recipe.RATIO,)
    seeds: int = recipe.SEEDS
    classifiers: tuple[str, ...] = recipe.CLASSIFIERS
    arms: tuple[str, ...] = DEFAULT_ARMS
    real_share: float | Literal["ratio"] = recipe.REAL_SHARE
    filter: float = 0.0
    pool: int = recipe.POOL
    generator_steps: int | None = None
    classifier_steps: int | None = None
    configs: Mapping[str, BaseConfig] = field(default_factory=dict, hash=False)  # of models; else the recipe's

    def __post_init__(self) -> None:
        for name, values in (("model", self.models), ("size", self.per_class), ("ratio", self.ratio)):
            if not values:
                raise UsageError(f"A study needs at least one {name}.")
            if len(set(values)) != len(values):
                raise UsageError(f"A {name} is named twice: {' '.join(map(str, values))}.")
        for size in self.per_class:
            if size != "all" and (not isinstance(size, int) or size < 1):
                raise UsageError(f"--per-class {size}: it is a number of images, or all.")
        for ratio in self.ratio:
            if not (math.isfinite(ratio) and ratio > 0):
                raise UsageError(f"--ratio {ratio}: it is a number of synthetic images for each real one, above 0.")
        for name in self.classifiers:
            if name not in recipe.CLASSIFIER:
                raise UsageError(f"There is no classifier {name!r} in a study. {suggestion(name, recipe.CLASSIFIER)}")
        if not self.classifiers:
            raise UsageError("A study needs at least one classifier.")
        if self.real_share != "ratio" and not 0 < self.real_share < 1:
            raise UsageError(f"--real-share {self.real_share}: it is above 0 and below 1, or ratio.")
        if not 0 <= self.filter < 1:
            raise UsageError(f"--filter {self.filter}: it is a confidence of at least 0 (no filter) and below 1.")
        for name in ("seeds", "pool"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("generator_steps", "classifier_steps"):
            steps = getattr(self, name)
            if steps is not None and steps < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {steps}; it must be at least 1.")
        self.chosen_arms  # noqa: B018  an unknown name is told now

    @property
    def chosen_arms(self) -> tuple[Arm, ...]:
        """The arms in the order in which they are shown."""
        return arms_called(self.arms)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        values = {key: value for key, value in vars(self).items() if key != "configs"}
        return values | {
            "arms": [arm.name for arm in self.chosen_arms],
            "configs": {name: asdict(config) for name, config in self.configs.items()},
        }


@dataclass(frozen=True)
class Plan:
    """The cells of a study in the order in which they are started, and why some arms have none."""

    cells: tuple[Cell, ...]
    subsets: tuple[Subset, ...]
    notes: tuple[str, ...]

    @cached_property
    def everything(self) -> tuple[Cell, ...]:
        """The cells and all that they need, each once, what is needed before what needs it."""
        found: dict[Cell, None] = {}
        for cell in self.cells:
            found |= dict.fromkeys(_with_needs(cell))
        return tuple(found)


def plan(design: Design, lab: Lab) -> Plan:
    """The cells of a study. Repetition by repetition, so that what is done first can be compared already."""
    makers = [
        _Maker(design, lab, repetition, None if size == "all" else size)
        for repetition in range(design.seeds)
        for size in design.per_class
    ]
    cells = [cell for maker in makers[: len(design.per_class)] for cell in maker.leaking()]  # long, and shared by all
    for maker in makers:
        cells += maker.cells()
    notes = dict.fromkeys(note for maker in makers for note in maker.notes)
    return Plan(tuple(dict.fromkeys(cells)), tuple(maker.subset for maker in makers), tuple(notes))


class _Maker:
    """The cells of one repetition at one size."""

    def __init__(self, design: Design, lab: Lab, repetition: int, per_class: int | None) -> None:
        self.design, self.lab, self.repetition, self.per_class = design, lab, repetition, per_class
        data = lab.subsets(repetition).take(per_class)
        self.subset = Subset(repetition, per_class, len(data), data.hash)
        self.steps = design.classifier_steps or recipe.classifier_steps(len(data))
        self.generator_steps = design.generator_steps or recipe.generator_steps(len(data))
        self.notes: list[str] = []

    def cells(self) -> Iterator[Cell]:
        """What is cheap and shared first, then arm by arm."""
        images = self.subset.images
        if images <= recipe.MOST_NEAREST:
            yield Nearest(self.subset, shifted=False)
        if images <= recipe.MOST_SHIFTED:
            yield Nearest(self.subset, shifted=True)
        for arm in self.design.chosen_arms:
            yield from self._arm(arm)

    def leaking(self) -> Iterator[Cell]:
        """The generators that see everything, where an arm has them."""
        if self.per_class is not None:
            for arm in self.design.chosen_arms:
                if arm.other == "everything":
                    yield from (self._generator(arm, model) for model in self.design.models)

    def _arm(self, arm: Arm) -> Iterator[Classify]:
        if self.per_class is None and arm.other in ("everything", "pool", "pseudo-labels", "real"):
            self.notes.append(f"There is no arm {arm.name!r} at all images: none are left beside them.")
            return
        for classifier in self.design.classifiers:
            if arm.generated:
                for model in self.design.models:
                    for ratio in self.design.ratio:
                        yield self._classify(arm, classifier, ratio=ratio, draw=self._draw(arm, model))
            elif arm.other == "real":
                for ratio in self.design.ratio:
                    if further := self._further(ratio):
                        yield self._classify(arm, classifier, ratio=ratio, further=further)
            elif arm.other == "pseudo-labels":
                yield self._classify(arm, classifier, pool=self._pool())
            else:
                yield self._classify(arm, classifier)

    def _classify(self, arm: Arm, classifier: str, *, ratio: float = 0.0, **other: Any) -> Classify:
        batch = recipe.BATCH
        real = batch
        if arm.other:
            share = self.design.real_share
            real = round(batch / (1 + ratio) if share == "ratio" and ratio else batch * _number(share))
            real = min(max(real, 1), batch - 1) if arm.subset else 0
        return Classify(
            classifier=classifier,
            config=json.dumps(recipe.CLASSIFIER[classifier] | asdict(arm.distortion), sort_keys=True),
            arm=arm.name,
            subset=self.subset,
            steps=self.steps + (self.generator_steps if arm.repeated else 0),
            # The same in every arm: first weights, the order of the subset's images, and the noise of each step.
            seed=self._seed("classifier", classifier),
            batch=batch,
            real=real,
            ratio=ratio,
            **other,
        )

    def _draw(self, arm: Arm, model: str) -> Draw:
        return Draw(
            generator=self._generator(arm, model),
            subset=self.subset,
            count=round(max(self.design.ratio) * self.subset.images),
            seed=self._seed("images", model, arm.other),
            draws=recipe.DRAWS,
            least=self.design.filter,
            labeller=self._labeller() if self.design.filter else None,
        )

    def _generator(self, arm: Arm, model: str) -> Train:
        config = self.design.configs.get(model) or recipe.generator_config(model, self.lab.models[model])
        if arm.other == "everything":
            steps = self.design.generator_steps or recipe.generator_steps(len(self.lab.train))
            seed = seed_of(self.lab.seed, "generator", model, "everything")
            return Train(model, config.to_json(), "everything", steps, seed, None)
        pool = self._pool() if arm.other == "pool" else None
        return Train(
            model=model,
            config=config.to_json(),
            regime="pool" if pool else "subset",
            steps=self.generator_steps,
            seed=self._seed("generator", model),
            subset=self.subset,
            pool=pool,
        )

    def _labeller(self) -> Label:
        config = recipe.CLASSIFIER[recipe.LABELLER] | asdict(recipe.ELASTIC)
        return Label(
            subset=self.subset,
            classifier=recipe.LABELLER,
            config=json.dumps(config, sort_keys=True),
            steps=self.steps,
            seed=self._seed("labeller"),
        )

    def _pool(self) -> Pool:
        return Pool(self._labeller(), self.design.pool, recipe.CONFIDENT)

    def _further(self, ratio: float) -> int:
        """Further real images of each class for the ceiling: as many as there are synthetic, or as there are."""
        assert self.per_class is not None
        wanted = max(1, round(ratio * self.per_class))
        there = self.lab.subsets(self.repetition).least - self.per_class
        if there < wanted:
            self.notes.append(
                f"More real: beside {self.per_class} a class there are {there} further images of the rarest class, not "
                f"{wanted}" + (", so that arm has those." if there else ", so there is no such arm.")
            )
        return min(wanted, there)

    def _seed(self, *what: str) -> int:
        return seed_of(self.lab.seed, self.repetition, self.per_class or "all", *what)


def _number(share: float | Literal["ratio"]) -> float:
    """The share of real images where it does not follow from the ratio."""
    return recipe.REAL_SHARE if share == "ratio" else share


def _with_needs(cell: Cell) -> Iterator[Cell]:
    for need in cell.needs():
        yield from _with_needs(need)
    yield cell
