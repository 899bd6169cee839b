"""The scale that every score stands beside: the floor, and what corrupted images get, for each layer and evaluator.

    python benchmarks/scale.py                             print the table; minutes
    python benchmarks/scale.py --ship mnistgen/weights     and write it there, with the reference features

The floor is n random training images against n test images, with the test images' class counts: its mean and standard
deviation over ten draws. The other rows are one draw of training images each: with Gaussian noise of a tenth of the
range, with a Gaussian blur of one pixel, all of class 1 whatever was asked for, and noise alone. Needs MNIST on disk
and the evaluators in the package.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from mnistgen import load_data
from mnistgen.console import Display
from mnistgen.files import atomic_file
from mnistgen.scoring.evaluators import Evaluators
from mnistgen.scoring.reference import of_dataset, write_reference
from mnistgen.scoring.scale import BLUR, COLLAPSED, FLOOR, NOISE, compute_scale

SIZES = (1_000, 5_000, 10_000)


def table(scales: dict[int, dict[str, dict[str, Any]]], number: str) -> str:
    """One number over sizes and rows."""
    lines = []
    for n, rows in scales.items():
        best = rows[FLOOR]["mean"].get(number)
        if best is None:
            continue
        cells = [f"{best:.4g} ± {rows[FLOOR]['spread'][number]:.2g}"]
        cells += [f"{row['mean'][number]:.4g}" for name, row in rows.items() if name != FLOOR]
        lines.append(f"| {number} | {n:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="name of the dataset")
    parser.add_argument("--n", type=int, nargs="*", default=list(SIZES), help="numbers of images")
    parser.add_argument("--draws", type=int, default=10, help="draws of the floor")
    parser.add_argument("--out", type=Path, default=Path("samples/scale.json"), help="where the numbers go")
    parser.add_argument("--ship", type=Path, help="write scale and reference features into this folder")
    options = parser.parse_args()

    train, test = load_data(options.data, "train"), load_data(options.data, "test")
    evaluators = Evaluators.load(options.data)
    reference = of_dataset(evaluators, test)
    scales: dict[int, dict[str, dict[str, Any]]] = {}
    display = Display("scale")
    with display.live():
        for i, n in enumerate(options.n):
            scales[n] = compute_scale(
                evaluators,
                reference,
                train,
                n,
                draws=options.draws,
                progress=lambda text, done, i=i: display.update((i + done) / len(options.n), text),  # type: ignore[misc]
            )
    report = {
        "dataset": test.name,
        "split": test.split,
        "reference_hash": test.hash,
        "evaluators": dict(evaluators.hashes),
        "noise": NOISE,
        "blur": BLUR,
        "collapsed": COLLAPSED,
        "torch": torch.__version__,
        "scales": scales,
    }
    rows = next(iter(scales.values()))
    print(f"| number | n | {' | '.join(rows)} |\n|{' --- |' * (2 + len(rows))}")
    for number in rows[FLOOR]["mean"]:
        if lines := table(scales, number):
            print(lines)
    targets = [options.out]
    if options.ship:
        for path in write_reference(options.ship, evaluators, test):
            print(f"reference features: {path}")
        targets.append(options.ship / f"scale-{test.name}-{test.split}.json")
    for path in targets:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        print(f"numbers: {path}")


if __name__ == "__main__":
    main()
