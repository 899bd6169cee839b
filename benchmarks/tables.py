"""The tables of README and docs, from the records in benchmarks/results and the shipped checkpoints.

    python benchmarks/tables.py            write them
    python benchmarks/tables.py --check    only say which differ; the exit status is 1 where one does

A table stands between `<!-- table NAME -->` and `<!-- end -->`; nothing between the two is typed by hand.
"""

import argparse
import csv
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mnistgen.checkpoint import read_checkpoint
from mnistgen.files import atomic_file
from mnistgen.published import published, record, shipped_checkpoints
from mnistgen.registry import entries, model_class
from mnistgen.scoring.reference import FORMER_ROWS

CLASSICAL, CLASSICAL_TITLE = "classical", "real + affine + elastic"  # the condition that synthetic images have to beat
ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = []
    for path in pages():
        text = path.read_text("utf-8")
        new = rendered(text)
        if new != text:
            stale.append(path)
            if not check:
                with atomic_file(path) as temporary:
                    temporary.write_text(new, "utf-8")
            print(f"{path.relative_to(ROOT)}: {'differs from the records' if check else 'written'}")
    return 1 if check and stale else 0


def pages() -> list[Path]:
    """The files that may hold tables."""
    return [ROOT / "README.md", ROOT / "checkpoints" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rendered(text: str) -> str:
    """A page with each of its tables made anew."""
    return PLACE.sub(lambda match: f"{match[1]}{table(match[2])}\n{match[3]}", text)


def table(name: str) -> str:
    """A table by its name: one that is made here, or one that a benchmark has kept as a record."""
    if name in TABLES:
        return TABLES[name]()
    kept = record(name)
    return markdown(kept["head"], kept["rows"], kept.get("left", 1))


def models() -> str:
    """What there is, best first: paper, size, training, headline, and time of a sample."""
    known, scores = published(), record("scores-mnist")
    rows = []
    for name in sorted(scores, key=_headline(scores)):
        columns, floors = known[name].columns, known[name].floors
        cells = [
            f"`{name}`",
            entries()[name].description.rstrip("."),
            columns["weights"],
            columns["training"],
            f"**{columns['FID / floor']}**",
            ", ".join(f"{floors[network]:.1f}" for network in "AB"),
            f"{scores[name]['numbers']['label_agreement']:.1%}",
            columns["an image"],
        ]
        rows.append(cells)
    head = ["model", "what it is", "weights", "training", "FID / floor", "by A, by B", "labels", "an image"]
    return markdown(head, rows, left=2)


def scores() -> str:
    """Every number that the records have, best first, real images above."""
    found = record("scores-mnist")
    titles = {
        "FID": ("fid.A.penultimate", ".3g"),
        "FID by B": ("fid.B.penultimate", ".3g"),
        "KID": ("kid.A.penultimate", ".2g"),
        "precision": ("precision.A.penultimate", ".3f"),
        "recall": ("recall.A.penultimate", ".3f"),
        "density": ("density.A.penultimate", ".3f"),
        "coverage": ("coverage.A.penultimate", ".3f"),
        "labels": ("label_agreement", ".2%"),
        "authentic": ("authentic", ".1%"),
    }
    real = next(iter(found.values()))["real"]
    rows = [["real images", "1.0", *(_shown(real, *which) for which in titles.values())]]
    for name in sorted(found, key=_headline(found)):
        numbers = found[name]["numbers"]
        floors = max(found[name]["floors"].values())
        rows.append([f"`{name}`", f"{floors:.1f}", *(_shown(numbers, *which) for which in titles.values())])
    return markdown(["", "FID / floor", *titles], rows) + f"\n\n{_protocol(found)}"


def features() -> str:
    """FID as a multiple of the floor in each network's features, best first."""
    found = record("scores-mnist")
    views = {
        "A": "fid.A.penultimate",
        "A, intermediate layer": "fid.A.early",
        "B": "fid.B.penultimate",
        "untrained network": "fid.random.penultimate",
    }
    rows = [
        [f"`{name}`", *(f"{found[name]['numbers'][v] / found[name]['real'][v]:.2f}" for v in views.values())]
        for name in sorted(found, key=_headline(found))
    ]
    return markdown(["", *views], rows)


def checkpoints() -> str:
    """The shipped checkpoints: how each was made, and what it is worth, best first."""
    found = record("scores-mnist")
    rows = []
    for name in sorted(found, key=_headline(found)):
        path = shipped_checkpoints()[name]
        about, numbers, floors = read_checkpoint(path), found[name]["numbers"], found[name]["floors"]
        loss = about.scores.get("validation_loss")
        cells = [
            f"`{path.name}`",
            f"`{train_command(name)}`",
            f"{about.steps:,}",
            published()[name].columns["training"],
            "" if loss is None else f"{loss:.4g}",
            f"{numbers['fid.A.penultimate']:.3g}",
            ", ".join(f"{floors[network]:.1f}" for network in "AB"),
            f"{numbers['label_agreement']:.2%}",
            f"{numbers['coverage.A.penultimate']:.3f}",
        ]
        rows.append(cells)
    head = ["file", "made by", "steps", "training", "validation loss", "FID", "floors by A, B", "labels", "coverage"]
    return markdown(head, rows, left=2) + f"\n\n{_protocol(found)}"


def train_command(name: str) -> str:
    """The command that trains a model, with the flags that made its checkpoint which ships, if one does."""
    command = ["python", "-m", "mnistgen", "train", name]
    path = shipped_checkpoints().get(name)
    if path is not None:
        config = model_class(name).Config
        usual = asdict(config())
        for key, value in asdict(config.from_dict(read_checkpoint(path).config)).items():
            if value != usual[key]:
                command += [f"--{key.replace('_', '-')}", *plain(value).split()]
    return shlex.join(command)


def plain(value: Any) -> str:
    """The value of a flag as it is typed."""
    if isinstance(value, tuple | list):
        return " ".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def scale() -> str:
    """FID of real and corrupted images in each layer, from the scales that ship."""
    found = json.loads((ROOT / "mnistgen" / "weights" / "scale-mnist-test.json").read_text("utf-8"))["scales"]
    views = {
        "A, penultimate": "fid.A.penultimate",
        "A, intermediate layer": "fid.A.early",
        "B, penultimate": "fid.B.penultimate",
        "B, intermediate layer": "fid.B.early",
        "untrained CNN": "fid.random.penultimate",
    }
    names = [FORMER_ROWS.get(name, name) for name in found["1000"]]
    rows = []
    for title, number in views.items():
        for n, corrupted in found.items():
            floor = corrupted["floor"]
            cells = [f"{row['mean'][number]:.4g}" for name, row in corrupted.items() if name != "floor"]
            best = f"{floor['mean'][number]:.4g} ± {floor['spread'][number]:.1g}"
            rows.append([title, f"{int(n):,}", best, *cells])
    return markdown(["FID in", "n", *names], rows, left=2)


def two_sample() -> str:
    """How often a network tells images from test images."""
    found = json.loads((ROOT / "benchmarks" / "results" / "two_sample.json").read_text("utf-8"))
    rows = []
    for name, row in found["rows"].items():
        sigma = name.removeprefix("real, sigma ")
        noise = f"the same with noise of {sigma} grey level{'' if sigma == '1' else 's'} in the ink"
        what = found["sources"][name] if sigma == name else noise if sigma != "0" else "training images"
        low, high = row["interval_95"]
        rows.append([what, f"{row['accuracy']:.1%} ({low:.1%} to {high:.1%})"])
    about = f"By `{found['command']}`: {found['n']:,} images a side, {found['steps']} steps."
    return f"{markdown(['images', 'told from test images'], rows)}\n\n{about}"


def generations(titles: dict[str, tuple[str, str]]) -> str:
    """FID, coverage and CAS by generation of self-consuming training, of several folders or guidances side by side."""
    runs = {
        title: [row for row in _csv(folder, "loop") if row["guidance"] == way]
        for title, (folder, way) in titles.items()
    }
    head = ["generation"]
    for title in runs:
        head += [f"{title}: FID", "coverage", "CAS"]
    rows = []
    for number in sorted({int(row["generation"]) for run in runs.values() for row in run}):
        cells = [str(number)]
        for run in runs.values():
            row = run[number]
            cells += [f"{float(row['fid']):.3g}", f"{float(row['coverage']):.3f}", f"{float(row['cas']):.2%}"]
        rows.append(cells)
    return markdown(head, rows)


def study() -> str:
    """Accuracies of the default study by condition, differences to classical augmentation, and cost."""
    found, apart = _csv("augmentation", "results"), _differences("augmentation")
    sizes = sorted({int(row["per_class"]) for row in found})
    head = ["condition"]
    for size in sizes:
        head += [f"{size} per class", "difference", "p"]
    rows = []
    for first in [row for row in found if int(row["per_class"]) == sizes[0]]:
        condition, cells = (first["condition"], first["model"]), []
        same = [row for row in found if (row["condition"], row["model"]) == condition]
        for row in same:
            half = (float(row["accuracy_high_95"]) - float(row["accuracy_low_95"])) / 2
            cells.append(f"{100 * float(row['accuracy']):.2f} ± {100 * half:.2f}")
            cells += apart.get((*condition, row["per_class"], CLASSICAL), ("", ""))
        title = first["title"].removesuffix(" (x5)").replace(", x5)", ")").replace(CLASSICAL_TITLE, "classical")
        title = f"{CLASSICAL_TITLE} (classical)" if title == "classical" else title
        rows.append([title, *cells, ", ".join(_cost(float(row["seconds"])) for row in same)])
    return markdown([*head, "cost"], rows)


def families_study() -> str:
    """Differences of one model of each family, at three sizes."""
    apart = _differences("augmentation-families")
    sizes = sorted({size for *_, size, _ in apart}, key=int)
    pairs = {
        "classical + synthetic against classical": ("classical-synthetic", CLASSICAL),
        "real + synthetic against real only": ("synthetic", "real"),
    }
    head = ["difference, points"]
    for size in sizes:
        head += [f"{size} per class", "p"]
    rows = []
    for title, (condition, against) in pairs.items():
        for i, model in enumerate(("flow", "vae", "r3gan")):
            cells = [cell for size in sizes for cell in apart[(condition, model, size, against)]]
            rows.append([f"{title}: `{model}`" if i == 0 else f"`{model}`", *cells])
    return markdown(head, rows)


def _differences(folder: str) -> dict[tuple[str, str, str, str], tuple[str, str]]:
    """Paired differences in points with their interval, and Holm's p: by condition, model, size and what it is to."""
    return {
        (row["condition"], row["model"], row["per_class"], row["against"]): (
            "{:+.2f} ({:+.2f} to {:+.2f})".format(
                *(100 * float(row[f"difference{end}"]) for end in ("", "_low_95", "_high_95"))
            ),
            f"{float(row['p_holm']):.2g}",
        )
        for row in _csv(folder, "differences")
    }


def _cost(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _csv(folder: str, name: str) -> list[dict[str, str]]:
    with (ROOT / "benchmarks" / folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


TABLES: dict[str, Callable[[], str]] = {
    "models": models,
    "scores": scores,
    "features": features,
    "checkpoints": checkpoints,
    "two-sample": two_sample,
    "scale": scale,
    "study": study,
    "study-families": families_study,
    "generations": partial(generations, {mode: (f"loop-{mode}", "") for mode in ("replace", "accumulate", "fresh")}),
    "generations-guidance": partial(
        generations,
        {f"guidance {scale}": ("loop-flow", way) for scale, way in ((1, "without guidance"), (2, "guidance_scale 2"))},
    ),
}


def _headline(scores: dict[str, Any]) -> Callable[[str], float]:
    return lambda name: max(scores[name]["floors"].values())


def _protocol(scores: dict[str, Any]) -> str:
    """What all rows share, in a sentence."""
    first = next(iter(scores.values()))
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    evaluators = first["protocol"].partition(";")[0]
    samples = f"{first['n']:,} samples, seed {first['seed']}, against MNIST's test split; {evaluators}"
    return f"{first['machine']}; {versions}. {samples}."


def _shown(numbers: dict[str, float], name: str, form: str) -> str:
    return format(numbers[name], form) if name in numbers else ""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose first columns are on the left and whose numbers are on the right."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


if __name__ == "__main__":
    sys.exit(main())
