"""What a study has found: means, paired differences, and a verdict that follows from the numbers alone."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

from mnistgen.experiments import protocol
from mnistgen.experiments.cache import Cache, Failure, Record, Task
from mnistgen.experiments.plan import Design, LoopDesign, Plan, Question
from mnistgen.experiments.protocol import CLASSICAL, CONDITIONS, REAL
from mnistgen.experiments.tasks import Classify, Generation, NearestNeighbour, RealImages, StudyContext
from mnistgen.metrics.statistics import LEVEL, Interval, Paired, holm, paired, pairs_needed, t_interval

REFERENCES = (CLASSICAL, REAL)
SCORES = {"fid": (0.0, math.inf), "coverage": (0.0, 1.0), "cas": (0.0, 1.0)}  # of a generation, and their ranges
Decision = Literal["helps", "hurts", "no difference that matters", "undecided"]
Asked = TypeVar("Asked", bound=Question)
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Row:
    """A condition: one classifier at one size, with one generator at one ratio."""

    classifier: str
    per_class: int | None  # None: all
    condition: str
    model: str  # "": no generator
    ratio: float  # 0: no other images, or as many as there are

    @property
    def size(self) -> str:
        return str(self.per_class or "all")

    @property
    def role(self) -> str:
        return CONDITIONS[self.condition].role

    @property
    def source(self) -> str:
        """The generator and its ratio, where there are any."""
        return " ".join(filter(None, [self.model, f"x{self.ratio:g}" if self.ratio else ""]))

    @property
    def title(self) -> str:
        """What is trained, with the generator and its ratio."""
        return CONDITIONS[self.condition].title + (f" ({self.source.replace(' ', ', ')})" if self.source else "")

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"per_class": self.size, "ratio": self.ratio or None}


@dataclass(frozen=True)
class Outcome:
    """What a condition came to."""

    row: Row
    accuracies: dict[int, float]  # by repetition
    accuracy: Interval
    seconds: float  # of one repetition: the classifier, and all that its images cost
    real_fraction: float
    steps: int
    images: float  # of the subset, seen by the classifier
    other_images: float

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single accuracies, for JSON and CSV."""
        about = {"title": self.row.title, "role": self.row.role, **interval_dict("accuracy", self.accuracy)}
        names = ("real_fraction", "steps", "images", "other_images", "seconds")
        return self.row.to_dict() | about | {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Comparison:
    """A condition against the classical augmentation or against real images only, paired by repetition."""

    row: Row
    against: str
    paired: Paired
    effect: float  # the difference that would matter: a tenth of the other condition's errors
    p_holm: float | None = None  # corrected over the conditions of the same role against the same one
    tests: int = 0  # of which there are so many

    @property
    def too_wide(self) -> bool:
        """Whether the interval is too wide to tell a difference that would matter from none."""
        return self.paired.interval.half > self.effect

    @cached_property
    def pairs_needed(self) -> int | None:
        """Pairs that find it with a power of 80%; None where the interval is narrow enough, or not known."""
        wide = self.effect < self.paired.interval.half < math.inf
        return pairs_needed(self.paired.spread, self.effect) if wide else None

    @property
    def decision(self) -> Decision:
        """What the numbers say, at a level of 5% after correction."""
        interval = self.paired.interval
        if self.p_holm is not None and self.p_holm < LEVEL:
            return "helps" if interval.mean > 0 else "hurts"
        if interval.low is not None and interval.high is not None and max(-interval.low, interval.high) < self.effect:
            return "no difference that matters"
        return "undecided"

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON and CSV."""
        found = {"against": self.against, **interval_dict("difference", self.paired.interval)}
        found |= {"spread": self.paired.spread, "p": self.paired.p, "p_holm": self.p_holm, "family": self.row.role}
        names = ("tests", "effect", "too_wide", "pairs_needed", "decision")
        return self.row.to_dict() | found | {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Baseline:
    """A published number of MNIST, beside what the study measured."""

    what: str
    size: str
    found: Interval
    published: float
    least: bool  # whether it is the least that a strong baseline reaches

    @property
    def weak(self) -> bool:
        """Whether a baseline falls short, so that any gain over it means nothing."""
        return self.least and self.found.mean < self.published


@dataclass(frozen=True)
class Line:
    """One generation of self-consuming training, over its repetitions."""

    model: str
    per_class: int | None
    guidance: str  # "without guidance", "guidance 0.5", or "" of a model that has no such sampling parameter
    generation: int
    numbers: dict[str, Interval]  # fid, coverage, cas

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON and CSV."""
        row: dict[str, Any] = vars(self) | {"per_class": self.per_class or "all"}
        n = max((interval.n for interval in row.pop("numbers").values()), default=0)
        for name in SCORES:
            row |= interval_dict(name, self.numbers.get(name))
            del row[f"{name}_n"]
        return row | {"repetitions": n}


def interval_dict(name: str, interval: Interval | None) -> dict[str, Any]:
    """An interval as numbers of these names."""
    mean, low, high, n = interval or (None, None, None, 0)
    return {name: mean, f"{name}_low_95": low, f"{name}_high_95": high, f"{name}_n": n}


@dataclass(frozen=True, eq=False)
class Results(Generic[Asked]):
    """A study as far as it has come."""

    title: ClassVar[str]  # begins the name of its folder
    design: Asked
    plan: Plan
    context: StudyContext
    failures: list[Failure]

    @property
    def cache(self) -> Cache:
        return self.context.cache

    @property
    def folder(self) -> Path:
        """Where the records and the reports are."""
        return self.cache.folder

    @cached_property
    def done(self) -> dict[Task, Record]:
        """The tasks that are done, in the order of the plan."""
        return {task: record for task in self.plan.everything if (record := self.cache.get(task))}

    @property
    def missing(self) -> int:
        """The number of tasks that are still to be done."""
        return len(self.plan.everything) - len(self.done)

    @property
    def seconds(self) -> float:
        """Of all tasks together, however many processes shared them."""
        return sum(record.seconds for record in self.done.values())

    def _repr_markdown_(self) -> str:
        """The report as text, for notebooks."""
        from mnistgen.experiments.report import report_text

        return report_text(self)


class Study(Results[Design]):
    """An augmentation study as far as it has come."""

    title = "augment"

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """The conditions with at least one finished repetition, in the order of the plan."""
        done = [task for task in self.plan.tasks if isinstance(task, Classify) and task in self.done]
        rows = (Row(task.classifier, task.subset.per_class, task.condition, task.model, task.ratio) for task in done)
        return [self._outcome(row, tasks) for row, tasks in grouped(zip(rows, done, strict=True)).items()]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every condition against the two references."""
        return comparisons(self.outcomes)

    @cached_property
    def baselines(self) -> list[Baseline]:
        """Published baselines, where the study has measured the same; of MNIST alone."""
        if self.context.train.name != "mnist":
            return []
        found = [
            Baseline("cnn, real + affine + elastic, at least", outcome.row.size, outcome.accuracy, least, True)
            for outcome in self.outcomes
            if (outcome.row.classifier, outcome.row.condition) == ("cnn", CLASSICAL)
            and (least := protocol.LEAST_OF_A_BASELINE.get(outcome.row.per_class or 0))
        ]
        accuracies = grouped(
            ((task.shifted, task.subset.per_class or 0), float(record.result["accuracy"]))
            for task, record in self.done.items()
            if isinstance(task, NearestNeighbour)
        )
        for (shifted, size), values in accuracies.items():
            if published := (protocol.NEAREST_SHIFTED if shifted else protocol.NEAREST).get(size):
                what = f"1 nearest neighbour{', nine shifts' if shifted else ''}"
                found.append(Baseline(what, str(size), t_interval(values, within=(0.0, 1.0)), published, False))
        return found

    @property
    def verdict(self) -> str:
        """One sentence, by the numbers alone."""
        return verdict(self.comparisons, self.baselines)

    def _outcome(self, row: Row, tasks: Sequence[Classify]) -> Outcome:
        first, results = tasks[0], {task.subset.repetition: self.done[task].result for task in tasks}
        accuracies = {repetition: float(result["accuracy"]) for repetition, result in sorted(results.items())}
        other = _mean(result["other_images"] for result in results.values())
        return Outcome(
            row=row,
            accuracies=accuracies,
            accuracy=t_interval(list(accuracies.values()), within=(0.0, 1.0)),
            seconds=_mean(map(self._seconds, tasks)),
            real_fraction=first.real / first.batch if other or not first.real else 1.0,
            steps=first.steps,
            images=_mean(result["images"] for result in results.values()),
            other_images=other,
        )

    def _seconds(self, task: Task) -> float:
        """The whole cost of a task: what it depends on is counted as if it served this one alone."""
        own = self.done[task].seconds if task in self.done else 0.0
        return own + sum(map(self._seconds, task.dependencies))


class Loop(Results[LoopDesign]):
    """Self-consuming training as far as it has come."""

    title = "loop"

    @cached_property
    def generations(self) -> dict[Generation, Mapping[str, Any]]:
        """What the generations that are done came to."""
        return {task: record.result for task, record in self.done.items() if isinstance(task, Generation)}

    @cached_property
    def lines(self) -> list[Line]:
        """The generations, each over its repetitions."""
        found = grouped(
            ((task.model, task.subset.per_class, task.guided, task.number), result)
            for task, result in self.generations.items()
        )
        return [Line(*key, _intervals(results)) for key, results in found.items()]

    @cached_property
    def real(self) -> dict[str, float]:
        """FID and coverage of real images, and their CAS, as far as they are known."""
        found = [record.result for task, record in self.done.items() if isinstance(task, RealImages)]
        found += [result["floor"] for result in self.generations.values()][:1]
        return {name: float(value) for result in found for name, value in result.items() if value is not None}

    @property
    def steps(self) -> dict[str, int]:
        """Steps of a generator, by size."""
        return {task.subset.size: task.steps for task in self.plan.tasks if isinstance(task, Generation)}

    @property
    def protocol(self) -> str:
        """The protocol of the scores; empty before the first one."""
        return next((str(result["protocol"]) for result in self.generations.values()), "")


def comparisons(found: Sequence[Outcome]) -> list[Comparison]:
    """Compare every condition with the two references, at the repetitions that both have."""
    by_row = {outcome.row: outcome for outcome in found}
    raw: list[Comparison] = []
    for outcome in found:
        for against in REFERENCES:
            other = by_row.get(Row(outcome.row.classifier, outcome.row.per_class, against, "", 0.0), outcome)
            both = [r for r in outcome.accuracies if r in other.accuracies]
            if other is not outcome and both:
                pair = paired([outcome.accuracies[r] for r in both], [other.accuracies[r] for r in both])
                raw.append(Comparison(outcome.row, against, pair, protocol.EFFECT * (1 - other.accuracy.mean)))
    families = grouped(((c.against, c.row.role), c.paired.p) for c in raw if c.paired.p is not None)
    corrected = {family: iter(holm(p)) for family, p in families.items()}
    return [
        replace(
            c,
            p_holm=None if c.paired.p is None else next(corrected[c.against, c.row.role]),
            tests=len(families.get((c.against, c.row.role), ())),
        )
        for c in raw
    ]


def verdict(compared: Sequence[Comparison], baselines: Sequence[Baseline] = ()) -> str:
    """Say in one sentence whether synthetic images help beside the classical augmentation, by these numbers alone.

    It is about generators that have seen the subset alone; and about conditions that have the classical augmentation
    themselves, where there are any.
    """
    cases = [c for c in compared if c.against == CLASSICAL and c.row.role == "synthetic"]
    beside = [c for c in cases if c.row.condition == "classical-synthetic"]
    cases, where = (beside, "added to") if beside else (cases, "in place of")
    if not cases:
        return "No verdict: no condition with synthetic images has been compared with the classical augmentation yet."
    helps, hurts, none, open_ = ([c for c in cases if c.decision == decision] for decision in get_args(Decision))
    parts = []
    for some, says in ((helps, "help"), (hurts, "hurt"), (none, "make no difference that matters")):
        if some:
            parts.append(f"{says} in {len(some)} of {len(cases)} cases ({_examples(some)})")
    if open_:
        pairs = sorted({c.paired.interval.n for c in open_})
        needs = [c.pairs_needed for c in open_ if c.pairs_needed]
        more = f"; up to {max(needs)} pairs would tell" if needs else ""
        at = " to ".join(map(str, dict.fromkeys([pairs[0], pairs[-1]]))) + (" pair" if pairs[-1] == 1 else " pairs")
        parts.append(f"leave {len(open_)} of {len(cases)} undecided with {at} ({_examples(open_)}{more})")
    if helps and not hurts:
        answer = "Yes, they do" if len(helps) == len(cases) else "In part"
    elif hurts and not helps:
        answer = "No, they do harm" if len(hurts) == len(cases) else "No"
    else:
        answer = "It depends" if helps else "No" if none and not open_ else "Not shown"
    weak = [f"{b.size} per class ({b.found.mean:.1%} against {b.published:.1%})" for b in baselines if b.weak]
    doubt = f"; but the baseline is weak at {' and '.join(weak)}, where a gain means nothing" if weak else ""
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{answer}: {where} affine and elastic augmentation, synthetic images {listed}{doubt}."


def percent(interval: Interval | None, form: str = ".2%", factor: float = 1.0) -> str:
    """An accuracy, or another number, with its interval; all times `factor`."""
    if interval is None:
        return ""
    mean, low, high = (None if value is None else f"{factor * value:{form}}" for value in interval[:3])
    return str(mean) if low is None else f"{mean} ({low} to {high})"


def points(interval: Interval) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    shown = percent(interval, "+.2f", 100)
    return f"{shown} points" if interval.low is None else shown.replace(" (", " points, ").rstrip(")")


def _examples(some: Sequence[Comparison], most: int = 3) -> str:
    """The cases with the largest differences, in points of accuracy."""
    shown = sorted(some, key=lambda c: -abs(c.paired.interval.mean))[:most]
    several = len({c.row.classifier for c in some}) > 1 or shown[0].row.classifier != "cnn"
    texts = []
    for c in shown:
        classifier = f" with {c.row.classifier}" if several else ""
        texts.append(f"{c.row.source} at {c.row.size} per class{classifier}: {points(c.paired.interval)}")
    return "; ".join([*texts, *([f"and {len(some) - len(shown)} more"] if len(some) > len(shown) else [])])


def grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """The values of each key, in order."""
    found: dict[K, list[V]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def _intervals(results: Sequence[Mapping[str, Any]]) -> dict[str, Interval]:
    """The scores of a generation that any of its repetitions has."""
    values = {name: [float(r[name]) for r in results if r.get(name) is not None] for name in SCORES}
    return {name: t_interval(found, within=SCORES[name]) for name, found in values.items() if found}


def _mean(values: Iterable[float]) -> float:
    found = [float(value) for value in values]
    return sum(found) / len(found)
