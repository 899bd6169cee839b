"""The report of a study: everything it found as JSON, CSV, Markdown and figures, in its folder."""

import csv
import importlib.metadata
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mnistgen.console import duration
from mnistgen.data import Dataset
from mnistgen.experiments import recipe
from mnistgen.experiments.arms import ARMS, CLASSICAL, REAL
from mnistgen.experiments.cells import Draw, Train, read_images
from mnistgen.experiments.figures import draw_accuracies, draw_differences, draw_images
from mnistgen.experiments.found import Study
from mnistgen.experiments.results import (
    REFERENCES,
    Comparison,
    as_numbers,
    difference_numbers,
    points,
)
from mnistgen.experiments.statistics import Interval
from mnistgen.files import atomic_file


def write_report(study: Study) -> None:
    """Write results.json, results.csv, differences.csv, report.md and the figures of what is done so far."""
    folder = study.folder
    write_text(folder / "results.json", json.dumps(everything(study), indent=1) + "\n")
    write_text(folder / "results.csv", table_csv([as_numbers(outcome) for outcome in study.outcomes]))
    write_text(folder / "differences.csv", table_csv([difference_numbers(c) for c in study.comparisons]))
    about = {"Software": "mnistgen", "Source": command(study), "Hash": study.lab.train.hash}
    pictures = _figures(study, about)
    write_text(folder / "report.md", markdown(study, pictures))


def everything(study: Study) -> dict[str, Any]:
    """The whole study for JSON."""
    return {
        "verdict": study.verdict,
        "command": command(study),
        "design": study.design.to_dict(),
        "data": study.lab.frame,
        "versions": {name: importlib.metadata.version(name) for name in ("mnistgen", "torch", "scipy")},
        "level": recipe.LEVEL,
        "power": recipe.POWER,
        "effect": recipe.EFFECT,
        "outcomes": [as_numbers(o) | {"accuracies": o.accuracies} for o in study.outcomes],
        "comparisons": [difference_numbers(c) for c in study.comparisons],
        "known": [asdict(k) | {"found": k.found._asdict(), "weak": k.weak} for k in study.known],
        "subsets": [asdict(subset) for subset in study.plan.subsets],
        "generators": [_about_generator(study, cell) for cell in _done(study, Train)],
        "notes": list(study.plan.notes),
        "failures": [failure._asdict() for failure in study.failures],
        "cells": {"done": study.done, "missing": study.missing},
        "seconds": round(study.seconds, 1),
    }


def command(study: Study) -> str:
    """The command that repeats the study; where its files lie is left out."""
    design, frame = study.design, study.lab.frame
    words = ["mnistgen", "augment", *design.models]
    if frame["dataset"] != "mnist":
        words += ["--data", frame["dataset"]]
    words += ["--per-class", *map(str, design.per_class), "--ratio", *(f"{ratio:g}" for ratio in design.ratio)]
    words += ["--seeds", str(design.seeds), "--classifier", *design.classifiers]
    words += ["--arms", *(arm.name for arm in design.chosen_arms), "--real-share", str(design.real_share)]
    if design.filter:
        words += ["--filter", f"{design.filter:g}"]
    if design.pool != recipe.POOL:
        words += ["--pool", str(design.pool)]
    for name in ("generator_steps", "classifier_steps"):
        if (steps := getattr(design, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(steps)]
    return shlex.join([*words, "--seed", str(frame["seed"])])


def markdown(study: Study, pictures: Sequence[str]) -> str:
    """The report as text."""
    design, frame = study.design, study.lab.frame
    repetitions = "1 repetition" if design.seeds == 1 else f"{design.seeds} repetitions"
    lines = ["# Does synthetic data help?", "", f"**{study.verdict}**", ""]
    lines += [
        f"{frame['dataset']} (training {frame['train']}, test {frame['test']}), {repetitions}, seed "
        f"{frame['seed']}, {frame['precision']}. By `{command(study)}`; {study.done} cells in "
        f"{duration(study.seconds)} of computing{f', {study.missing} still missing' if study.missing else ''}.",
        "",
        "Each repetition draws balanced subsets of the training split, nested across sizes. A generator is trained on "
        "exactly the subset that its classifiers see, for a length fixed in advance; the classifiers of a repetition "
        f"share first weights and the order of images, and have the same steps of {recipe.BATCH} images (but for "
        f"`repeated`, see below). Each is tested once, after its last step. In a batch, real images are "
        f"{_share(study)} where an arm has others, too{_filtered(study)}.",
        "",
    ]
    for place in dict.fromkeys((o.row.classifier, o.row.per_class) for o in study.outcomes):
        lines += _section(study, *place)
    lines += _legend(study)
    if study.known:
        lines += ["## Known beforehand", "", "| | images a class | here | known |", "| --- | --- | --- | --- |"]
        for k in study.known:
            says = " **weak: gains over it mean nothing**" if k.weak else ""
            lines.append(f"| {k.what} | {k.size} | {percent(k.found)}{says} | {k.known:.1%} |")
        lines.append("")
    if study.plan.notes or study.failures:
        lines += ["## Notes", "", *(f"- {note}" for note in study.plan.notes)]
        lines += [*(f"- failed: {failure.name}: {failure.why}" for failure in study.failures), ""]
    lines += [f"![{Path(picture).stem}]({picture})" for picture in pictures]
    return "\n".join(lines) + "\n"


def _section(study: Study, classifier: str, per_class: int | None) -> list[str]:
    here = [o for o in study.outcomes if (o.row.classifier, o.row.per_class) == (classifier, per_class)]
    against = {(c.row, c.against): c for c in study.comparisons}
    steps = next(o.steps for o in here if o.row.arm != "repeated") if len(here) > 1 else here[0].steps
    lines = [
        f"## {classifier}, {per_class or 'all'} images a class, {steps} steps",
        "",
        f"| arm | n | accuracy (95% interval) | against {ARMS[CLASSICAL].title} | p | against {ARMS[REAL].title} | p "
        "| pairs needed | real share | cost |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for o in here:
        pairs = [against.get((o.row, reference)) for reference in REFERENCES]
        cells = [cell for c in pairs for cell in (_difference(c), _p(c))]
        needed = _needed(pairs[0])
        lines.append(
            f"| {o.row.title} | {o.accuracy.n} | {percent(o.accuracy)} | {' | '.join(cells)} | {needed} "
            f"| {o.real_share:.0%} | {o.seconds:.0f} s |"
        )
    return [*lines, ""]


def _legend(study: Study) -> list[str]:
    effect = f"{recipe.EFFECT:.0%} of the errors of {ARMS[CLASSICAL].title}"
    lines = [
        "Differences are in percentage points, paired by repetition, with t-intervals of 95%. p: paired t-test, "
        "Holm-corrected over the arms of one kind (baselines, synthetic, pool, leaking) against the same arm, over all "
        "sizes, ratios, models and classifiers. Intervals are over repetitions (subsets, first weights, generators), "
        f"for this test split. Pairs needed: where the interval is wider than {effect} either way, the pairs for which "
        f"a t-test at {recipe.LEVEL:.0%} finds a difference of that size with a power of {recipe.POWER:.0%}. Cost: "
        "seconds of one repetition, with all that its images cost.",
        "",
        "Arms:",
        "",
    ]
    for arm in study.design.chosen_arms:
        lines.append(f"- `{arm.name}` ({arm.title}): {arm.about}.")
    return [*lines, ""]


def _share(study: Study) -> str:
    shares = sorted({o.real_share for o in study.outcomes if 0 < o.real_share < 1})
    return " or ".join(f"{share:.0%}" for share in shares) if shares else "alone"


def _filtered(study: Study) -> str:
    if not study.design.filter:
        return ""
    return (
        f". Synthetic images are kept where a {recipe.LABELLER} trained on the same subset sees what was asked for "
        f"with a confidence of {study.design.filter:g}"
    )


def percent(interval: Interval) -> str:
    """An accuracy with its interval."""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.2%}"
    return f"{interval.mean:.2%} ({interval.low:.2%} to {interval.high:.2%})"


def _difference(comparison: Comparison | None) -> str:
    return (
        ""
        if comparison is None
        else points(comparison.paired.interval).replace(" points, ", " (", 1)
        + (")" if comparison.paired.interval.low is not None else "")
    )


def _p(comparison: Comparison | None) -> str:
    return "" if comparison is None or comparison.p_holm is None else f"{comparison.p_holm:.2g}"


def _needed(comparison: Comparison | None) -> str:
    if comparison is None or not comparison.too_wide or comparison.p_holm is None:
        return ""
    return "over 100,000" if comparison.pairs_needed is None else str(comparison.pairs_needed)


def _figures(study: Study, about: Mapping[str, str]) -> list[str]:
    """The names of the figures that could be drawn."""
    folder, names = study.folder, []
    if study.outcomes:
        per_class = len(study.lab.train) / study.lab.train.num_classes
        draw_accuracies(study.outcomes, folder / "accuracy.png", about, per_class)
        names.append("accuracy.png")
    for against in REFERENCES:
        if any(c.against == against for c in study.comparisons):
            draw_differences(study.comparisons, against, folder / f"differences-{against}.png", about)
            names.append(f"differences-{against}.png")
    for size, blocks in _pictures(study).items():
        draw_images(blocks, folder / f"images-{size}.png", about)
        names.append(f"images-{size}.png")
    return names


def _pictures(study: Study) -> dict[str, dict[str, Dataset]]:
    """Real images of the first repetition and the synthetic ones made of them, by size and source."""
    found: dict[str, dict[str, Dataset]] = {}
    train = study.lab.train
    for cell in _done(study, Draw):
        subset = cell.subset
        if subset.repetition == 0:
            size = str(subset.per_class or "all")
            real = study.lab.subsets(0).take(subset.per_class)
            blocks = found.setdefault(size, {f"real, {size} a class": real})
            regime = {"subset": "", "pool": ", unlabelled pool", "everything": ", LEAKING"}[cell.generator.regime]
            made = study.records.made(cell)
            blocks[f"{cell.generator.model}{regime}"] = read_images(made, train.num_classes, cell.generator.model)
    return found


def _done(study: Study, kind: type[Any]) -> list[Any]:
    return [cell for cell in study.plan.everything if isinstance(cell, kind) and study.records.get(cell) is not None]


def _about_generator(study: Study, cell: Train) -> dict[str, Any]:
    record = study.records.get(cell)
    assert record is not None
    return {
        "model": cell.model,
        "regime": cell.regime,
        "subset": cell.subset.name if cell.subset else None,
        "steps": cell.steps,
        "config": json.loads(cell.config),
        "leaking": cell.regime == "everything",
        **record.result,
        "seconds": round(sum(record.seconds.values()), 1),
    }


def table_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as CSV, the keys first."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, "utf-8")
