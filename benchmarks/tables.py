"""The tables of README and docs, from the records in benchmarks/results and the shipped checkpoints.

    python benchmarks/tables.py            write them
    python benchmarks/tables.py --check    only say which differ; the exit status is 1 where one does

A table stands between `<!-- table NAME -->` and `<!-- end -->`; nothing between the two is typed by hand.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mnistgen.checkpoint import read_checkpoint
from mnistgen.files import atomic_file
from mnistgen.published import published, record, shipped_checkpoints
from mnistgen.registry import entries, model_class

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
    return PLACE.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


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
    return _markdown(head, rows, left=2)


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
    return _markdown(["", "FID / floor", *titles], rows) + f"\n\n{_protocol(found)}"


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
    return _markdown(["", *views], rows)


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
    return _markdown(head, rows, left=2) + f"\n\n{_protocol(found)}"


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


TABLES: dict[str, Callable[[], str]] = {
    "models": models,
    "scores": scores,
    "features": features,
    "checkpoints": checkpoints,
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


def _markdown(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


if __name__ == "__main__":
    sys.exit(main())
