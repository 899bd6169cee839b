"""The reports of a study: everything it found as JSON, CSV, Markdown and figures, in its folder."""

import csv
import importlib.metadata
import io
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mnistgen.console import duration
from mnistgen.data import Dataset
from mnistgen.experiments import protocol
from mnistgen.experiments.analysis import REFERENCES, SCORES, Comparison, Loop, Results, Study, percent, points
from mnistgen.experiments.figures import draw_accuracies, draw_differences, draw_images, draw_loop
from mnistgen.experiments.plan import Design
from mnistgen.experiments.protocol import CLASSICAL, CONDITIONS
from mnistgen.experiments.tasks import SampleImages, TrainGenerator, read_images
from mnistgen.files import atomic_file

FORMS = {"fid": ".3g", "coverage": ".3f", "cas": ".2%"}
MODES = {
    "replace": "what the generation before drew",
    "accumulate": "the subset and all that has been drawn since",
    "fresh": "what the generation before drew and as many real images that no generation has seen",
}
FLAGS = {"classifiers": "classifier"}  # of a design's fields, where they are called otherwise
Figures = Mapping[str, Callable[[Path, Mapping[str, str]], None]]


def write_report(found: Results[Any]) -> None:
    """Write all numbers as JSON and CSV, the report, and the figures of what is done so far."""
    if isinstance(found, Study):
        tables: dict[str, Sequence[Any]] = {"results": found.outcomes, "differences": found.comparisons}
        name, content, figures = "results", _study_numbers(found), _study_figures(found)
        text = study_markdown(found, list(figures))
    else:
        assert isinstance(found, Loop)
        tables = {"loop": found.lines}
        name, content, figures = "loop", _loop_numbers(found), _loop_figures(found)
        text = loop_markdown(found, list(figures))
    files = {f"{table}.csv": _csv([row.to_dict() for row in rows]) for table, rows in tables.items()}
    report = "report.md" if name == "results" else "loop.md"
    for path, lines in {f"{name}.json": json.dumps(content, indent=1) + "\n", **files, report: text}.items():
        with atomic_file(found.folder / path) as temporary:
            temporary.write_text(lines, "utf-8")
    about = {"Software": "mnistgen", "Source": command(found), "Hash": found.context.train.hash}
    for path, draw in figures.items():
        draw(found.folder / path, about)


def command(found: Results[Any]) -> str:
    """The command that repeats the study; where its files lie is left out."""
    design, frame = found.design, found.context.frame
    words = ["mnistgen", "augment", *design.models]
    if frame["dataset"] != "mnist":
        words += ["--data", str(frame["dataset"])]
    always = ("per_class", "ratio", "seeds", "classifiers", "conditions", "real_fraction", "generations", "mode")
    for name, field in type(design).__dataclass_fields__.items():
        value = getattr(design, name)
        if name in ("models", "configs", "scored", "cas_steps") or (name not in always and value == field.default):
            continue
        values = value if isinstance(value, tuple) else (value,)
        shown = [f"{one:g}" if isinstance(one, float) else str(one) for one in values]
        words += [f"--{FLAGS.get(name, name).replace('_', '-')}", *shown]
    return shlex.join([*words, "--seed", str(frame["seed"])])


def study_markdown(study: Study, pictures: Sequence[str]) -> str:
    """The report of an augmentation study as text."""
    design, frame = study.design, study.context.frame
    missing = f", {study.missing} still missing" if study.missing else ""
    fractions = sorted({o.real_fraction for o in study.outcomes if 0 < o.real_fraction < 1})
    fraction = " or ".join(f"{fraction:.0%}" for fraction in fractions) if fractions else "alone"
    kept = (
        f". Synthetic images are kept where a {protocol.LABELLER} trained on the same subset sees what was asked for "
        f"with a confidence of {design.filter:g}"
    )
    lines = [
        "# Does synthetic data help?",
        "",
        f"**{study.verdict}**",
        "",
        f"{frame['dataset']} (training {frame['train']}, test {frame['test']}), {_repetitions(design.seeds)}, seed "
        f"{frame['seed']}, {frame['precision']}. By `{command(study)}`; {len(study.done)} tasks in "
        f"{duration(study.seconds)} of computing{missing}.",
        "",
        "Each repetition draws balanced subsets of the training split, nested across sizes. A generator is trained on "
        "exactly the subset that its classifiers see, for a length fixed in advance; the classifiers of a repetition "
        f"share first weights and the order of images, and have the same steps of {protocol.BATCH} images (but for "
        "`repeated`, see below). Each is tested once, after its last step. In a batch, real images are "
        f"{fraction} where a condition has others, too{kept if design.filter else ''}.",
        "",
    ]
    for place in dict.fromkeys((o.row.classifier, o.row.per_class) for o in study.outcomes):
        lines += _section(study, *place)
    lines += [*_legend(design), ""]
    if study.baselines:
        rows = []
        for b in study.baselines:
            weak = " **weak: gains over it mean nothing**" if b.weak else ""
            rows.append((b.what, b.size, f"{percent(b.found)}{weak}", f"{b.published:.1%}"))
        lines += ["## Published baselines", "", *_table(("", "images per class", "here", "published"), rows), ""]
    if study.plan.notes or study.failures:
        lines += ["## Notes", "", *(f"- {note}" for note in study.plan.notes), *_failed(study), ""]
    return "\n".join([*lines, *_shown(pictures)]) + "\n"


def loop_markdown(found: Loop, pictures: Sequence[str] = ()) -> str:
    """The report of self-consuming training as text, with figures by their names."""
    mode, seeds = found.design.mode, _repetitions(found.design.seeds)
    steps = ", ".join(f"{count} steps at {size} per class" for size, count in found.steps.items())
    rows = []
    for line in found.lines:
        where = (line.model, line.per_class or "all", line.guidance, line.generation)
        rows.append((*where, *(percent(line.numbers.get(name), FORMS[name]) for name in SCORES)))
    real = [format(found.real[name], FORMS[name]) if name in found.real else "" for name in SCORES]
    titles = ("FID", "coverage", "classification accuracy score (CAS)")
    lines = [
        f"# Self-consuming training: {mode}",
        "",
        f"Each generation learns from {MODES[mode]}, for as many steps ({steps}). By `{command(found)}`; {seeds}, "
        "means with 95% intervals where there are several.",
        "",
        *_table(
            ("model", "images per class", "guidance", "generation", *titles), [*rows, ("real images", *[""] * 3, *real)]
        ),
        "",
    ]
    if found.missing or found.failures:
        lines += [f"{found.missing} tasks are missing.", "", *_failed(found), ""]
    if found.protocol:
        lines += [f"FID and coverage: {found.protocol}", ""]
    return "\n".join([*lines, *_shown(pictures)]) + "\n"


def _study_numbers(study: Study) -> dict[str, Any]:
    generators = []
    for task, record in study.done.items():
        if isinstance(task, TrainGenerator):
            about = {name: getattr(task, name) for name in ("model", "regime", "steps")}
            about |= {"subset": task.subset.name if task.subset else None, "config": json.loads(task.config)}
            leaking = task.regime == "everything"
            generators.append(about | record.result | {"leaking": leaking, "seconds": record.seconds})
    return {
        "verdict": study.verdict,
        **_common_numbers(study),
        "level": protocol.LEVEL,
        "power": protocol.POWER,
        "effect": protocol.EFFECT,
        "outcomes": [o.to_dict() | {"accuracies": o.accuracies} for o in study.outcomes],
        "comparisons": [c.to_dict() for c in study.comparisons],
        "baselines": [asdict(b) | {"found": b.found._asdict(), "weak": b.weak} for b in study.baselines],
        "subsets": [asdict(subset) for subset in study.plan.subsets],
        "generators": generators,
        "notes": list(study.plan.notes),
    }


def _loop_numbers(found: Loop) -> dict[str, Any]:
    about = {"mode": found.design.mode, "steps": found.steps, "protocol": found.protocol, "real_images": found.real}
    return _common_numbers(found) | about | {"generations": [line.to_dict() for line in found.lines]}


def _common_numbers(found: Results[Any]) -> dict[str, Any]:
    return {
        "command": command(found),
        "design": found.design.to_dict(),
        "data": found.context.frame,
        "versions": {name: importlib.metadata.version(name) for name in ("mnistgen", "torch", "scipy")},
        "failures": [failure._asdict() for failure in found.failures],
        "tasks": {"done": len(found.done), "missing": found.missing},
        "seconds": round(found.seconds, 1),
    }


def _section(study: Study, classifier: str, per_class: int | None) -> list[str]:
    here = [o for o in study.outcomes if (o.row.classifier, o.row.per_class) == (classifier, per_class)]
    against = {(c.row, c.against): c for c in study.comparisons}
    steps = min(o.steps for o in here)
    compared = [cell for reference in REFERENCES for cell in (f"against {CONDITIONS[reference].title}", "p")]
    titles = ("condition", "n", "accuracy (95% interval)", *compared, "pairs needed", "fraction of real data", "cost")
    rows = []
    for o in here:
        pairs = [against.get((o.row, reference)) for reference in REFERENCES]
        cells = [cell for c in pairs for cell in (_difference(c), _p(c))]
        last = (_needed(pairs[0]), f"{o.real_fraction:.0%}", f"{o.seconds:.0f} s")
        rows.append((o.row.title, o.accuracy.n, percent(o.accuracy), *cells, *last))
    return [f"## {classifier}, {per_class or 'all'} images per class, {steps} steps", "", *_table(titles, rows), ""]


def _legend(design: Design) -> list[str]:
    effect = f"{protocol.EFFECT:.0%} of the errors of {CONDITIONS[CLASSICAL].title}"
    return [
        "Differences are in percentage points, paired by repetition, with t-intervals of 95%. p: paired t-test, "
        "Holm-corrected over the conditions of one kind (baselines, synthetic, pool, leaking) against the same one, "
        "over all sizes, ratios, models and classifiers. Intervals are over repetitions (subsets, first weights, "
        f"generators), for this test split. Pairs needed: where the interval is wider than {effect} either way, the "
        f"pairs for which a t-test at {protocol.LEVEL:.0%} finds a difference of that size with a power of "
        f"{protocol.POWER:.0%}. Cost: seconds of one repetition, with all that its images cost.",
        "",
        "Conditions:",
        "",
        *(f"- `{name}` ({CONDITIONS[name].title}): {CONDITIONS[name].about}." for name in design.conditions),
    ]


def _repetitions(count: int) -> str:
    return "1 repetition" if count == 1 else f"{count} repetitions"


def _failed(found: Results[Any]) -> list[str]:
    return [f"- failed: {failure.name}: {failure.why}" for failure in found.failures]


def _shown(pictures: Sequence[str]) -> list[str]:
    return [f"![{Path(picture).stem}]({picture})" for picture in pictures]


def _difference(comparison: Comparison | None) -> str:
    mean, *interval = points(comparison.paired.interval).split(" points, ") if comparison else ("",)
    return f"{mean} ({interval[0]})" if interval else mean


def _p(comparison: Comparison | None) -> str:
    return "" if comparison is None or comparison.p_holm is None else f"{comparison.p_holm:.2g}"


def _needed(comparison: Comparison | None) -> str:
    if comparison is None or not comparison.too_wide or comparison.p_holm is None:
        return ""
    return "over 100,000" if comparison.pairs_needed is None else str(comparison.pairs_needed)


def _study_figures(study: Study) -> Figures:
    """How the figures that can be drawn are drawn, by their names."""
    figures: dict[str, Callable[[Path, Mapping[str, str]], None]] = {}
    train = study.context.train
    if study.outcomes:
        figures["accuracy.png"] = partial(draw_accuracies, study.outcomes, len(train) / train.num_classes)
    for against in REFERENCES:
        if any(c.against == against for c in study.comparisons):
            figures[f"differences-{against}.png"] = partial(draw_differences, study.comparisons, against)
    images: dict[str, dict[str, Dataset]] = {}  # of the first repetition, real and made of them, by size and source
    for task in study.done:
        if isinstance(task, SampleImages) and task.subset.repetition == 0:
            seen = {"subset": "", "pool": ", unlabelled pool", "everything": ", LEAKING"}[task.generator.regime]
            blocks = images.setdefault(f"images-{task.subset.size}.png", _real_block(study, task.subset.per_class))
            blocks[f"{task.generator.model}{seen}"] = task.images(study.context, task.count)
    return figures | {name: partial(draw_images, blocks) for name, blocks in images.items()}


def _loop_figures(found: Loop) -> Figures:
    """The same for self-consuming training: curves, and what the generations of the first repetition drew."""
    panels: dict[str, dict[str, list[float]]] = {name: {} for name in SCORES}
    for line in found.lines:
        curve = ", ".join(filter(None, [line.model, f"{line.per_class or 'all'} per class", line.guidance]))
        for name, interval in line.numbers.items():
            panels[name].setdefault(curve, []).append(interval.mean)
    for name, value in found.real.items():
        panels[name]["real images"] = [value] * (found.design.generations + 1)
    titles = {"fid": "FID", "cas": "CAS"}
    curves = {titles.get(name, name): lines for name, lines in panels.items() if lines}
    images: dict[str, dict[str, Dataset]] = {}
    for task in found.generations:
        if task.subset.repetition == 0:
            name = f"images-{task.chain}-{task.subset.size}.png"
            blocks = images.setdefault(name, _real_block(found, task.subset.per_class))
            made = found.cache.made(task)
            blocks[f"generation {task.number}"] = read_images(made, found.context.train.num_classes, task.model)
    figures = {"loop.png": partial(draw_loop, curves)} if found.lines else {}
    return figures | {name: partial(draw_images, blocks) for name, blocks in images.items()}


def _real_block(found: Results[Any], per_class: int | None) -> dict[str, Dataset]:
    return {f"real, {per_class or 'all'} per class": found.context.subsets(0).take(per_class)}


def _table(titles: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table of Markdown."""
    return [f"| {' | '.join(map(str, row))} |" for row in (titles, ["---"] * len(titles), *rows)]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as CSV, the keys first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    if rows:
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
