"""The report of a loop study: its numbers as JSON, CSV and Markdown, and their curves."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnistgen.data import Dataset
from mnistgen.experiments.cells import read_images
from mnistgen.experiments.figures import draw_images, draw_loop
from mnistgen.experiments.generations import REAL, TITLES, Line, Loop
from mnistgen.experiments.report import table_csv, write_text
from mnistgen.experiments.statistics import Interval

FORMS = {"fid": ".3g", "coverage": ".3f", "cas": ".2%"}
MODES = {
    "replace": "what the generation before drew",
    "accumulate": "the subset and all that has been drawn since",
    "fresh": "what the generation before drew and as many real images that no generation has seen",
}


def write_loop(found: Loop) -> None:
    """Write loop.json, loop.csv, loop.md, loop.png and pictures of each loop, of what is done so far."""
    folder = found.folder
    rows = [_numbers(line) for line in found.lines]
    content = {
        "command": command(found),
        "mode": found.mode,
        "data": found.lab.frame,
        "steps": found.steps,
        "protocol": found.protocol,
        "real_images": found.real,
        "generations": rows,
        "failures": [failure._asdict() for failure in found.failures],
        "missing": found.missing,
    }
    write_text(folder / "loop.json", json.dumps(content, indent=1) + "\n")
    write_text(folder / "loop.csv", table_csv(rows))
    about = {"Software": "mnistgen", "Source": command(found), "Hash": found.lab.train.hash}
    if found.lines:
        draw_loop(_curves(found), folder / "loop.png", about)
    pictures = _pictures(found)
    for name, blocks in pictures.items():
        draw_images(blocks, folder / name, about)
    write_text(folder / "loop.md", markdown(found, ["loop.png", *pictures] if found.lines else []))


def command(found: Loop) -> str:
    """The command that repeats the loop; where its files lie is left out."""
    frame = found.lab.frame
    words = ["mnistgen", "augment", *found.models, "--loop", str(found.generations), "--mode", found.mode]
    if frame["dataset"] != "mnist":
        words += ["--data", frame["dataset"]]
    words += ["--per-class", *found.steps, "--seeds", str(found.seeds)]
    if found.guidance is not None:
        words += ["--guidance", f"{found.guidance:g}"]
    if found.generator_steps is not None:
        words += ["--generator-steps", str(found.generator_steps)]
    return shlex.join([*words, "--seed", str(frame["seed"])])


def markdown(found: Loop, figures: Sequence[str] = ()) -> str:
    """The report as text, with figures by their names."""
    steps = ", ".join(f"{count} steps at {size} a class" for size, count in found.steps.items())
    lines = [
        f"# Trained on its own output: {found.mode}",
        "",
        f"Each generation learns from {MODES[found.mode]}, for as many steps ({steps}). By `{command(found)}`; "
        f"{found.seeds} repetition{'s' if found.seeds > 1 else ''}, means with 95% intervals where there are several.",
        "",
        "| model | images a class | guidance | generation | FID | coverage | CAS |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in found.lines:
        cells = [_shown(line.numbers.get(name), FORMS[name]) for name in TITLES]
        where = f"| {line.model} | {line.per_class or 'all'} | {line.guidance} | {line.generation} "
        lines.append(f"{where}| {' | '.join(cells)} |")
    real = [format(found.real[name], FORMS[name]) if name in found.real else "" for name in TITLES]
    lines += [f"| {REAL} | | | | {' | '.join(real)} |", ""]
    if found.missing or found.failures:
        lines += [f"{found.missing} generations are missing.", ""]
        lines += [*(f"- failed: {failure.name}: {failure.why}" for failure in found.failures), ""]
    if found.protocol:
        lines += [f"FID and coverage: {found.protocol}", ""]
    return "\n".join([*lines, *(f"![{Path(name).stem}]({name})" for name in figures)]) + "\n"


def _pictures(found: Loop) -> dict[str, dict[str, Dataset]]:
    """What the generations of the first repetition drew, beside real images: a file a loop."""
    pictures: dict[str, dict[str, Dataset]] = {}
    for cell in found.cells:
        subset = cell.subset
        if subset.repetition == 0:
            size = subset.per_class or "all"
            real = {f"real, {size} a class": found.lab.subsets(0).take(subset.per_class)}
            blocks = pictures.setdefault(f"images-{cell.chain}-{size}.png", real)
            made = read_images(found.records.made(cell), found.lab.train.num_classes, cell.model)
            blocks[f"generation {cell.number}"] = made
    return pictures


def _shown(interval: Interval | None, form: str) -> str:
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return format(interval.mean, form)
    return f"{interval.mean:{form}} ({interval.low:{form}} to {interval.high:{form}})"


def _numbers(line: Line) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": line.model,
        "per_class": str(line.per_class or "all"),
        "guidance": line.guidance,
        "generation": line.generation,
    }
    for name in TITLES:
        interval = line.numbers.get(name)
        row |= {
            name: None if interval is None else interval.mean,
            f"{name}_low_95": None if interval is None else interval.low,
            f"{name}_high_95": None if interval is None else interval.high,
        }
    return row | {"repetitions": max((i.n for i in line.numbers.values()), default=0)}


def _curves(found: Loop) -> dict[str, dict[str, list[float]]]:
    panels: dict[str, dict[str, list[float]]] = {title: {} for title in TITLES.values()}
    for line in found.lines:
        name = ", ".join(filter(None, [line.model, f"{line.per_class or 'all'} a class", line.guidance]))
        for key, title in TITLES.items():
            if key in line.numbers:
                panels[title].setdefault(name, []).append(line.numbers[key].mean)
    for key, title in TITLES.items():
        if key in found.real:
            panels[title][REAL] = [found.real[key]] * (found.generations + 1)
    return {title: lines for title, lines in panels.items() if lines}
