"""The table of scores, from files that `mnistgen score --json` wrote."""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from mnistgen.errors import DataError, MnistgenError

FLOOR, WORST = "floor", "noisy"  # rows of a scale: real images, and those with noise


@dataclass(frozen=True)
class Scored:
    """What one source got, as far as a page shows it."""

    name: str
    floors: float | None  # the headline
    by: Mapping[str, float]  # the headline's multiples by evaluator
    interval: tuple[float, float] | None
    numbers: Mapping[str, float]
    real: Mapping[str, float]  # what real images get
    noisy: Mapping[str, float]  # what noisy ones get, the other end of the scale
    protocol: str
    class_names: Sequence[str] = ()
    per_class: Mapping[str, float] = field(default_factory=dict)  # FID of each class, by its name
    confusion: Sequence[Sequence[int]] = ()  # rows requested, columns predicted
    notes: Sequence[str] = ()
    origin: str = ""  # what its checkpoint shares with those of other seeds; empty for images
    seed: int | None = None  # of its training
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of several seeds, by the column's number


class Column(NamedTuple):
    """One number of the table."""

    title: str
    number: str
    form: str
    meaning: str
    low: bool = True  # whether less is better


COLUMNS = (
    Column("FID / floor", "floors", ".1f", "Fréchet distance in floors, those of real images; the larger of A and B"),
    Column("by A", "by.A", ".1f", "the same in the features of evaluator A"),
    Column("by B", "by.B", ".1f", "the same in the features of evaluator B"),
    Column("FID", "fid.A.penultimate", ".3g", "Fréchet distance in the features of evaluator A"),
    Column("worst class", "class_fid.worst", ".3g", "the largest distance of the images of one class"),
    Column("KID", "kid.A.penultimate", ".2g", "kernel distance in the features of evaluator A"),
    Column("precision", "precision.A.penultimate", ".3f", "share of the samples that lie among real images", low=False),
    Column("recall", "recall.A.penultimate", ".3f", "share of the real images that lie among samples", low=False),
    Column("coverage", "coverage.A.penultimate", ".3f", "share of the real images that have a sample near", low=False),
    Column("labels", "label_agreement", ".2%", "how often evaluator A predicts the class requested", low=False),
    Column("two-sample", "two_sample", ".1%", "how often a network tells samples from real images (50%: never)"),
    Column("CAS", "cas", ".2%", "accuracy on real images of a classifier trained on samples", low=False),
)  # fmt: skip
FORMATS = ("html", "markdown", "latex", "csv")


def read_scores(path: Path) -> list[Scored]:
    """What a file of `mnistgen score --json` holds. Raises `DataError` where it is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise MnistgenError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON: {error}.") from error
    try:
        return [_scored(score) for score in found]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: is no file of scores; `mnistgen score SOURCE --json FILE` writes one.") from error


def _scored(score: Mapping[str, Any]) -> Scored:
    headline, details, protocol = score["headline"], score["details"], score["protocol"]
    numbers = {name: float(value) for name, value in score["numbers"].items()}
    scale = {row: {k: float(v) for k, v in about["mean"].items()} for row, about in score["scale"].items()}
    checkpoint = protocol.get("checkpoint") or {}
    floors, interval = headline["floors"], headline["interval_95"]
    names = [str(name) for name in score.get("class_names", [])]
    classes = details.get("per_class_fid", {}).get("classes", {})
    evaluators = " ".join(f"{name} {digest}" for name, digest in protocol["evaluators"].items())
    options = ", ".join(f"{name} {value}" for name, value in protocol.get("sampling", {}).items())
    return Scored(
        name=str(score["name"]),
        floors=None if floors is None else float(floors),
        by={network: float(times) for network, times in headline["by"].items()},
        interval=None if interval is None else (float(interval[0]), float(interval[1])),
        numbers=numbers,
        real=scale.get(FLOOR, {}),
        noisy=scale.get(WORST, {}),
        protocol=f"n {protocol['n']}, seed {protocol['seed']}, against {protocol['reference_n']} of "
        f"{protocol['reference']} ({protocol['reference_hash']}); evaluators {evaluators}"
        + (f"; sampling {options}" if options else ""),
        class_names=names,
        per_class={named(int(label), names): float(fid) for label, fid in classes.items()},
        confusion=[[int(count) for count in row] for row in details.get("labels", {}).get("table") or ()],
        notes=[str(note) for note in score["notes"]],
        origin=_origin(checkpoint),
        seed=int(checkpoint["seed"]) if "seed" in checkpoint else None,
    )


def _origin(checkpoint: Mapping[str, Any]) -> str:
    """Everything that two trainings with different seeds share."""
    shared = ("model", "config", "num_classes", "dataset", "steps", "distribution")
    return json.dumps({key: checkpoint[key] for key in shared if key in checkpoint}, sort_keys=True) * bool(checkpoint)


def merged(scores: Sequence[Scored]) -> list[Scored]:
    """The scores, with those that differ by the seed of their training in one: means, and ranges beside them."""
    groups: dict[tuple[str, str], list[Scored]] = {}
    for number, score in enumerate(scores):
        key = (score.origin, score.protocol) if score.origin else (str(number), "")
        groups.setdefault(key, []).append(score)
    return [
        one
        for group in groups.values()
        for one in ([_mean(group)] if len({score.seed for score in group}) == len(group) > 1 else group)
    ]


def _mean(group: Sequence[Scored]) -> Scored:
    name = f"{shared_name([score.name for score in group])} ({len(group)} seeds)"
    found = {column.number: [value(score, column) for score in group] for column in COLUMNS}
    values = {number: [x for x in some if x is not None] for number, some in found.items()}
    values = {number: some for number, some in values.items() if len(some) == len(group)}
    means = {number: sum(some) / len(some) for number, some in values.items()}
    return replace(
        group[0],
        name=name,
        floors=means.get("floors"),
        by={number.removeprefix("by."): mean for number, mean in means.items() if number.startswith("by.")},
        interval=None,
        numbers=means,
        ranges={number: (min(some), max(some)) for number, some in values.items()},
    )


def shared_name(names: Sequence[str]) -> str:
    """What the names of runs of several seeds begin with: vae of vae-seed0 and vae-seed1."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return re.sub(r"[-_. /]+(seed|s)?[-_. ]*$", "", "".join(letters[0] for letters in alike)) or names[0]


def named(label: int, names: Sequence[str]) -> str:
    """The name of a class, or its number where it has none."""
    return names[label] if label < len(names) else str(label)


def value(score: Scored, column: Column) -> float | None:
    """The number of a column, None where it was not measured."""
    if column.number == "floors":
        return score.floors
    if column.number.startswith("by."):
        return score.by.get(column.number.removeprefix("by."))
    return score.numbers.get(column.number)


def columns(scores: Sequence[Scored]) -> list[Column]:
    """Those that any of the scores has."""
    return [column for column in COLUMNS if any(value(score, column) is not None for score in scores)]


def real_value(scores: Sequence[Scored], column: Column) -> float | None:
    """What real images get; None where the scores are on different scales."""
    if column.number == "floors" or column.number.startswith("by."):
        return 1.0 if any(score.floors is not None for score in scores) else None
    found = {score.real.get(column.number) for score in scores}
    return found.pop() if len(found) == 1 else None


def place(score: Scored, column: Column, scores: Sequence[Scored]) -> float | None:
    """Where a number lies between real images (0) and noisy ones (1), for a bar; distances by their logarithm."""
    here = value(score, column)
    if here is None:
        return None
    if column.number == "floors" or column.number.startswith("by."):
        network = column.number.removeprefix("by.") if column.number != "floors" else "A"
        name = f"fid.{network}.penultimate"
        real, noisy = score.real.get(name), score.noisy.get(name)
        ends = (1.0, noisy / real) if real and noisy else (1.0, max(value(each, column) or 1.0 for each in scores))
    else:
        ends = (score.real.get(column.number), score.noisy.get(column.number))  # type: ignore[assignment]
    low, high = ends
    if low is None or high is None or low == high or not all(map(math.isfinite, (here, low, high))):
        return None
    if column.low and min(low, high) > 0:
        share = math.log(max(here, 1e-12) / low) / math.log(high / low)
    else:
        share = (here - low) / (high - low)
    return min(1.0, max(0.0, share))


def ranked(scores: Sequence[Scored]) -> list[Scored]:
    """Best first by the headline; those without one last."""
    return sorted(scores, key=lambda score: math.inf if score.floors is None else score.floors)


def table(scores: Sequence[Scored], kind: str) -> str:
    """The scores as "markdown", "latex" (booktabs) or "csv", best first, with the real images below.

    Models that differ by the seed of their training are one row, with means and ranges. Numbers of a CSV are not
    rounded, and have no ranges.
    """
    scores, shown = ranked(merged(scores)), columns(scores)
    header = ["model", *(column.title for column in shown)]
    rows = [
        [score.name, *(_cell(value(score, column), column, kind, score.ranges.get(column.number)) for column in shown)]
        for score in scores
    ]
    rows.append(["real images", *(_cell(real_value(scores, column), column, kind) for column in shown)])
    if kind == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue()
    if kind == "latex":
        body = [" & ".join(map(_latex, row)) + r" \\" for row in [header, *rows]]
        lines = [rf"\begin{{tabular}}{{l{'r' * len(shown)}}}", r"\toprule", body[0], r"\midrule", *body[1:-1],
                 r"\midrule", body[-1], r"\bottomrule", r"\end{tabular}"]  # fmt: skip
        return "\n".join(lines) + "\n"
    table_lines = [header, ["---", *["---:"] * len(shown)], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in table_lines)


def _cell(number: float | None, column: Column, kind: str, ends: tuple[float, float] | None = None) -> str:
    if number is None:
        return ""
    if kind == "csv":
        return repr(number)
    return format(number, column.form) + (f" ({between(ends, column)})" if ends else "")


def between(ends: tuple[float, float], column: Column) -> str:
    """A range in words."""
    return " to ".join(format(end, column.form) for end in ends)


def _latex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text
