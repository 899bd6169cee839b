"""What a study has found: means, paired differences, and a verdict that follows from the numbers alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mnistgen.experiments import recipe
from mnistgen.experiments.arms import ARMS, CLASSICAL, REAL, Arm
from mnistgen.experiments.cells import Cell, Classify, Nearest
from mnistgen.experiments.records import Record, Records
from mnistgen.experiments.statistics import Interval, Paired, holm, paired, pairs_needed, t_interval

REFERENCES = (CLASSICAL, REAL)
Decision = Literal["helps", "hurts", "no difference that matters", "undecided"]


@dataclass(frozen=True)
class Row:
    """An arm: one classifier at one size, with one generator at one ratio."""

    classifier: str
    per_class: int | None  # None: all
    arm: str
    model: str  # "": no generator
    ratio: float  # 0: no other images, or as many as there are

    @property
    def size(self) -> str:
        return str(self.per_class or "all")

    @property
    def title(self) -> str:
        """What is trained, with the generator and its ratio."""
        made = ", ".join([*([self.model] if self.model else []), *([f"x{self.ratio:g}"] if self.ratio else [])])
        return f"{ARMS[self.arm].title}{f' ({made})' if made else ''}"


@dataclass(frozen=True)
class Outcome:
    """What an arm came to."""

    row: Row
    accuracies: dict[int, float]  # by repetition
    accuracy: Interval
    seconds: float  # of one repetition: the classifier, and all that its images cost
    real_share: float
    steps: int
    images: float  # of the subset, seen by the classifier
    other_images: float

    @property
    def arm(self) -> Arm:
        return ARMS[self.row.arm]


@dataclass(frozen=True)
class Comparison:
    """An arm against the classical augmentation or against real images only, paired by repetition."""

    row: Row
    against: str
    paired: Paired
    p_holm: float | None  # corrected over the arms of the same role against the same arm
    family: str
    tests: int  # in that family
    effect: float  # the difference that would matter: a tenth of the other arm's errors
    pairs_needed: int | None  # to find it with a power of 80%; None where the interval is narrow enough

    @property
    def too_wide(self) -> bool:
        """Whether the interval is too wide to tell a difference that would matter from none."""
        return self.paired.interval.half > self.effect

    @property
    def decision(self) -> Decision:
        """What the numbers say, at a level of 5% after correction."""
        interval = self.paired.interval
        if self.p_holm is not None and self.p_holm < recipe.LEVEL:
            return "helps" if interval.mean > 0 else "hurts"
        if interval.low is not None and interval.high is not None and max(-interval.low, interval.high) < self.effect:
            return "no difference that matters"
        return "undecided"


@dataclass(frozen=True)
class Known:
    """A number that is known beforehand of MNIST, beside what the study measured."""

    what: str
    size: str
    found: Interval
    known: float
    least: bool  # whether the known number is the least that a strong baseline reaches

    @property
    def weak(self) -> bool:
        """Whether a baseline falls short, so that any gain over it means nothing."""
        return self.least and self.found.mean < self.known


def outcomes(cells: Iterable[Cell], records: Records) -> list[Outcome]:
    """The arms with at least one finished repetition, in the order of the plan."""
    found: dict[Row, dict[int, tuple[Classify, Record]]] = {}
    for cell in cells:
        record = records.get(cell)
        if isinstance(cell, Classify) and record is not None:
            model = cell.draw.generator.model if cell.draw else ""
            row = Row(cell.classifier, cell.subset.per_class, cell.arm, model, cell.ratio)
            found.setdefault(row, {})[cell.subset.repetition] = cell, record
    return [_outcome(row, done, records) for row, done in found.items()]


def _outcome(row: Row, done: dict[int, tuple[Classify, Record]], records: Records) -> Outcome:
    accuracies = {repetition: float(record.result["accuracy"]) for repetition, (_, record) in sorted(done.items())}
    cells = [cell for cell, _ in done.values()]

    def mean(key: str) -> float:
        return sum(float(record.result[key]) for _, record in done.values()) / len(done)

    return Outcome(
        row=row,
        accuracies=accuracies,
        accuracy=t_interval(list(accuracies.values()), within=(0.0, 1.0)),
        seconds=sum(_seconds(cell, records) for cell in cells) / len(cells),
        real_share=mean("real_share"),
        steps=cells[0].steps,
        images=mean("images"),
        other_images=mean("other_images"),
    )


def _seconds(cell: Cell, records: Records) -> float:
    """The whole cost of a cell: what it needs is counted as if it served this cell alone."""
    record = records.get(cell)
    own = sum(record.seconds.values()) if record else 0.0
    return own + sum(_seconds(need, records) for need in cell.needs())


def comparisons(found: Sequence[Outcome]) -> list[Comparison]:
    """Every arm against the two references, at the repetitions that both have."""
    by_row = {outcome.row: outcome for outcome in found}
    raw: list[tuple[Outcome, str, Paired, float]] = []
    for outcome in found:
        row = outcome.row
        for against in REFERENCES:
            other = by_row.get(Row(row.classifier, row.per_class, against, "", 0.0))
            if other is None or other is outcome:
                continue
            both = [r for r in outcome.accuracies if r in other.accuracies]
            if both:
                pair = paired([outcome.accuracies[r] for r in both], [other.accuracies[r] for r in both])
                raw.append((outcome, against, pair, recipe.EFFECT * (1 - other.accuracy.mean)))
    return _corrected(raw)


def _corrected(raw: Sequence[tuple[Outcome, str, Paired, float]]) -> list[Comparison]:
    families: dict[tuple[str, str], list[int]] = {}
    for index, (outcome, against, pair, _) in enumerate(raw):
        if pair.p is not None:
            families.setdefault((against, outcome.arm.role), []).append(index)
    corrected: dict[int, float] = {}
    for members in families.values():
        corrected |= dict(zip(members, holm([raw[i][2].p or 0.0 for i in members]), strict=True))
    result = []
    for index, (outcome, against, pair, effect) in enumerate(raw):
        wide = pair.p is not None and pair.interval.half > effect
        result.append(
            Comparison(
                row=outcome.row,
                against=against,
                paired=pair,
                p_holm=corrected.get(index),
                family=outcome.arm.role,
                tests=len(families.get((against, outcome.arm.role), ())),
                effect=effect,
                pairs_needed=pairs_needed(pair.spread, effect) if wide else None,
            )
        )
    return result


def known(cells: Iterable[Cell], records: Records, found: Sequence[Outcome], dataset: str) -> list[Known]:
    """What is known beforehand, where the study has measured it; nothing of another dataset than MNIST."""
    if dataset != "mnist":
        return []
    rows: list[Known] = []
    for outcome in found:
        row = outcome.row
        least = recipe.LEAST_OF_A_BASELINE.get(row.per_class or 0)
        if row.classifier == "cnn" and row.arm == CLASSICAL and least is not None:
            rows.append(Known("cnn, real + affine + elastic, at least", row.size, outcome.accuracy, least, least=True))
    seen: dict[tuple[bool, int], list[float]] = {}
    for cell in cells:
        if isinstance(cell, Nearest) and (record := records.get(cell)):
            seen.setdefault((cell.shifted, cell.subset.per_class or 0), []).append(float(record.result["accuracy"]))
    for (shifted, size), accuracies in seen.items():
        value = (recipe.NEAREST_SHIFTED if shifted else recipe.NEAREST).get(size)
        if value is not None:
            what = "1 nearest neighbour" + (", nine shifts" if shifted else "")
            rows.append(Known(what, str(size), t_interval(accuracies, within=(0.0, 1.0)), value, least=False))
    return rows


def verdict(compared: Sequence[Comparison], baselines: Sequence[Known] = ()) -> str:
    """One sentence: whether synthetic images help beside the classical augmentation, by these numbers alone.

    It is about generators that have seen the subset alone; and about arms that have the classical augmentation
    themselves, where there are any.
    """
    cases = [c for c in compared if c.against == CLASSICAL and ARMS[c.row.arm].role == "synthetic"]
    beside = [c for c in cases if c.row.arm == "classical-synthetic"]
    cases, where = (beside, "added to") if beside else (cases, "in place of")
    if not cases:
        return "No verdict: no arm with synthetic images has been compared with the classical augmentation yet."
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
    elif helps:
        answer = "It depends"
    else:
        answer = "No" if none and not open_ else "Not shown"
    weak = [f"{b.size} a class ({b.found.mean:.1%} against {b.known:.1%})" for b in baselines if b.weak]
    doubt = f"; but the baseline is weak at {' and '.join(weak)}, where a gain means nothing" if weak else ""
    return f"{answer}: {where} affine and elastic augmentation, synthetic images {_listed(parts)}{doubt}."


def _examples(some: Sequence[Comparison], most: int = 3) -> str:
    """The cases with the largest differences, in points of accuracy."""
    shown = sorted(some, key=lambda c: -abs(c.paired.interval.mean))[:most]
    several = len({c.row.classifier for c in some}) > 1 or shown[0].row.classifier != "cnn"
    texts = []
    for c in shown:
        row, interval = c.row, c.paired.interval
        who = f"{row.model} x{row.ratio:g} at {row.size} a class{f' with {row.classifier}' if several else ''}"
        texts.append(f"{who}: {points(interval)}")
    more = f"; and {len(some) - len(shown)} more" if len(some) > len(shown) else ""
    return "; ".join(texts) + more


def points(interval: Interval) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    if interval.low is None or interval.high is None:
        return f"{100 * interval.mean:+.2f} points"
    return f"{100 * interval.mean:+.2f} points, {100 * interval.low:+.2f} to {100 * interval.high:+.2f}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def as_numbers(outcome: Outcome) -> dict[str, Any]:
    """An outcome for JSON and CSV."""
    row, accuracy = outcome.row, outcome.accuracy
    return {
        "classifier": row.classifier,
        "per_class": row.size,
        "arm": row.arm,
        "title": row.title,
        "role": outcome.arm.role,
        "model": row.model,
        "ratio": row.ratio or None,
        "n": accuracy.n,
        "accuracy": accuracy.mean,
        "low_95": accuracy.low,
        "high_95": accuracy.high,
        "real_share": outcome.real_share,
        "steps": outcome.steps,
        "real_images": outcome.images,
        "other_images": outcome.other_images,
        "seconds": round(outcome.seconds, 3),
    }


def difference_numbers(comparison: Comparison) -> dict[str, Any]:
    """A comparison for JSON and CSV."""
    row, interval = comparison.row, comparison.paired.interval
    return {
        "classifier": row.classifier,
        "per_class": row.size,
        "arm": row.arm,
        "model": row.model,
        "ratio": row.ratio or None,
        "against": comparison.against,
        "pairs": interval.n,
        "difference": interval.mean,
        "low_95": interval.low,
        "high_95": interval.high,
        "spread": comparison.paired.spread,
        "p": comparison.paired.p,
        "p_holm": comparison.p_holm,
        "family": comparison.family,
        "tests": comparison.tests,
        "effect": comparison.effect,
        "too_wide": comparison.too_wide,
        "pairs_needed": comparison.pairs_needed,
        "decision": comparison.decision,
    }
