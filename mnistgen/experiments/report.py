"""The reports of a study: everything it found as JSON, CSV, Markdown and figures, in its folder."""

import csv
import importlib.metadata
import io
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure

from mnistgen.console import duration
from mnistgen.data import Dataset
from mnistgen.experiments import protocol
from mnistgen.experiments.analysis import REFERENCES, SCORES, Comparison, Loop, Results, Study, grouped, percent
from mnistgen.experiments.figures import draw_accuracies, draw_differences, draw_images, draw_loop
from mnistgen.experiments.protocol import CONDITIONS
from mnistgen.experiments.tasks import MakesImages, SampleImages, TrainGenerator
from mnistgen.files import atomic_file
from mnistgen.metrics import statistics
from mnistgen.text import rendered

FORMS = {"fid": ".3g", "coverage": ".3f", "cas": ".2%"}
FLAGS = {"classifiers": "classifier"}  # of a design's fields, where they are called otherwise
REGIMES = {"subset": "", "pool": ", unlabelled pool", "everything": ", LEAKING"}  # in titles of images
Figures = dict[str, Figure]  # by the names of their files


def write_report(found: Results[Any]) -> None:
    """Write all numbers as JSON and CSV, the report, and the figures of what is done so far."""
    tables: dict[str, Sequence[Any]]
    if isinstance(found, Study):
        tables = {"results": found.outcomes, "differences": found.comparisons}
        name, report, content, figures = "results", "report.md", _study_numbers(found), _study_figures(found)
        values = _study_values(found)
    else:
        assert isinstance(found, Loop)
        tables, values = {"loop": found.lines}, _loop_values(found)
        name, report, content, figures = "loop", "loop.md", _loop_numbers(found), _loop_figures(found)
    files = {f"{table}.csv": _csv([row.to_dict() for row in rows]) for table, rows in tables.items()}
    files |= {f"{name}.json": json.dumps(content, indent=1) + "\n", report: _rendered(report, found, figures, values)}
    for path, text in files.items():
        with atomic_file(found.folder / path) as temporary:
            temporary.write_text(text, "utf-8")
    about = {"Software": "mnistgen", "Source": command(found), "Hash": found.context.train.hash}
    for path, figure in figures.items():
        with atomic_file(found.folder / path) as temporary:
            figure.savefig(temporary, dpi=130, format="png", metadata=about)


def report_text(found: Results[Any]) -> str:
    """The report without its figures, as Markdown."""
    if isinstance(found, Study):
        return _rendered("report.md", found, {}, _study_values(found))
    assert isinstance(found, Loop)
    return _rendered("loop.md", found, {}, _loop_values(found))


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


def _rendered(template: str, found: Results[Any], figures: Figures, values: Mapping[str, Any]) -> str:
    """The report as text, by the template of its name."""
    about = {"found": found, "design": found.design, "frame": found.context.frame, "command": command(found)}
    return rendered("mnistgen.experiments", template, pictures=list(figures), **about, **values)


def _study_values(study: Study) -> dict[str, Any]:
    """What the report of an augmentation study shows beside the study itself."""
    fractions = sorted({o.real_fraction for o in study.outcomes if 0 < o.real_fraction < 1})
    compared = [cell for name in REFERENCES for cell in (f"against {CONDITIONS[name].title}", "p")]
    return {
        "conditions": CONDITIONS,
        "protocol": protocol,
        "statistics": statistics,
        "time": duration(study.seconds),
        "fraction": " or ".join(f"{fraction:.0%}" for fraction in fractions) or "alone",
        "titles": (
            "condition",
            "n",
            "accuracy (95% interval)",
            *compared,
            "pairs needed",
            "fraction of real data",
            "cost",
        ),
        "sections": list(_sections(study)),
        "baselines": [
            (
                b.what,
                b.size,
                f"{percent(b.found)}{' **weak: gains over it mean nothing**' * b.weak}",
                f"{b.published:.1%}",
            )
            for b in study.baselines
        ],
    }


def _sections(study: Study) -> Iterator[tuple[str, list[Sequence[object]]]]:
    """The title and the rows of each classifier and size."""
    against = {(c.row, c.against): c for c in study.comparisons}
    places = grouped(((o.row.classifier, o.row.size), o) for o in study.outcomes)
    for (classifier, size), outcomes in places.items():
        rows: list[Sequence[object]] = []
        for o in outcomes:
            pairs = [against.get((o.row, reference)) for reference in REFERENCES]
            cells = [cell for c in pairs for cell in _difference(c)]
            last = (_needed(pairs[0]), f"{o.real_fraction:.0%}", f"{o.seconds:.0f} s")
            rows.append((o.row.title, o.accuracy.n, percent(o.accuracy), *cells, *last))
        yield f"{classifier}, {size} images per class, {min(o.steps for o in outcomes)} steps", rows


def _difference(comparison: Comparison | None) -> tuple[str, str]:
    """A difference in points with its interval, and its p."""
    if comparison is None:
        return "", ""
    p = "" if comparison.p_holm is None else f"{comparison.p_holm:.2g}"
    return percent(comparison.paired.interval, "+.2f", 100), p


def _needed(comparison: Comparison | None) -> str:
    if comparison is None or not comparison.too_wide or comparison.p_holm is None:
        return ""
    return "over 100,000" if comparison.pairs_needed is None else str(comparison.pairs_needed)


def _loop_values(found: Loop) -> dict[str, Any]:
    """What the report of self-consuming training shows beside it."""
    rows: list[Sequence[object]] = []
    for line in found.lines:
        where = (line.model, line.per_class or "all", line.guidance, line.generation)
        rows.append((*where, *(percent(line.numbers.get(name), form) for name, form in FORMS.items())))
    real = [format(found.real[name], form) if name in found.real else "" for name, form in FORMS.items()]
    steps = ", ".join(f"{count} steps at {size} per class" for size, count in found.steps.items())
    return {"rows": [*rows, ("real images", "", "", "", *real)], "steps": steps}


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
        "level": statistics.LEVEL,
        "power": statistics.POWER,
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


def _study_figures(study: Study) -> Figures:
    """The figures that can be drawn."""
    figures: Figures = {}
    train = study.context.train
    if study.outcomes:
        figures["accuracy.png"] = draw_accuracies(study.outcomes, len(train) / train.num_classes)
    for against in REFERENCES:
        if any(c.against == against for c in study.comparisons):
            figures[f"differences-{against}.png"] = draw_differences(study.comparisons, against)
    images = (
        (f"images-{task.subset.size}.png", f"{task.generator.model}{REGIMES[task.generator.regime]}", task)
        for task in study.done
        if isinstance(task, SampleImages)
    )
    return figures | _image_figures(study, images)


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
    figures = {"loop.png": draw_loop(curves)} if found.lines else {}
    images = ((f"images-{t.chain}-{t.subset.size}.png", f"generation {t.number}", t) for t in found.generations)
    return figures | _image_figures(found, images)


def _image_figures(found: Results[Any], images: Iterable[tuple[str, str, MakesImages]]) -> Figures:
    """Images of the first repetition, by title, beside the real ones of their subset, by the name of the figure."""
    figures: dict[str, dict[str, Dataset]] = {}
    for name, title, task in images:
        if task.subset.repetition == 0:
            real = {f"real, {task.subset.size} per class": found.context.images(task.subset)}
            figures.setdefault(name, real)[title] = task.images(found.context)
    return {name: draw_images(blocks) for name, blocks in figures.items()}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as CSV, the keys first."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
