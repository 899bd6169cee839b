"""FID against network evaluations, for each diffusion model and solver, and against minutes of training.

    python benchmarks/evaluations.py                        the diffusion models that are shipped
    python benchmarks/evaluations.py --models flow-mnist --n 1000 --evaluations 4 8        to see that it works
    python benchmarks/evaluations.py --training checkpoints/flow-mnist                     its kept checkpoints, too

Judged by the evaluator A on the held-out training images, so that numbers of steps can be chosen by it; the test split
is not used. FID is in floors: that of as many training images against the held-out ones. Each way of sampling is given
the number of steps that comes nearest to the evaluations from below; `--training` takes the checkpoints that `train
--keep-every` left in a folder, sampled as the model's default does. What was measured is not measured again.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from families import read, write
from kept import keep, machine
from torch import Tensor

from mnistgen import load, load_data, sample
from mnistgen.checkpoint import read_checkpoint
from mnistgen.data import train_validation_split
from mnistgen.evaluator import extract, load_evaluator
from mnistgen.files import atomic_file
from mnistgen.metrics import fid

HELD_OUT = 5000


class Way(NamedTuple):
    """One way to sample a model."""

    title: str
    steps: Callable[[int], int]  # by the evaluations
    options: Mapping[str, Any] = MappingProxyType({})
    stepped: bool = True  # whether it has a number of steps to be given


def _each(evaluations: int) -> int:
    return evaluations


def _one(evaluations: int) -> int:
    return int(evaluations == 1)


def _half(evaluations: int) -> int:
    return evaluations // 2


def _heun(evaluations: int) -> int:
    """The last step is Euler's."""
    return (evaluations + 1) // 2


WAYS = {
    "flow": [
        Way("Euler", _each, {"solver": "euler"}),
        Way("Adams-Bashforth", _each, {"solver": "adams"}),
        Way("midpoint", _half, {"solver": "midpoint"}),
        Way("Heun", _heun, {"solver": "heun"}),
        Way("Runge-Kutta 4", lambda evaluations: evaluations // 4, {"solver": "rk4"}),
    ],
    "edm": [Way("Heun", _heun), Way("Heun, churn 10", _heun, {"churn": 10.0})],
    "ddpm": [Way("DDIM", _each), Way("ancestral", _each, {"eta": 1.0})],
    "meanflow": [Way("average velocity", _each)],
    "sid": [Way("one step", _one, stepped=False)],
}


class Judge:
    """FID of samples against the held-out images, in floors."""

    def __init__(self, n: int, seed: int) -> None:
        training, held_out = train_validation_split(load_data("mnist"), HELD_OUT, seed)
        self.n, self.seed = n, seed
        self.evaluator = load_evaluator("A")
        self.real = self._features(held_out.images)
        self.floor = fid(self._features(training.images[:n]), self.real)

    def _features(self, images: Tensor) -> Tensor:
        return extract(self.evaluator, images)["penultimate"].double()

    def floors(self, source: str, **options: Any) -> float:
        labels = torch.arange(self.n) % 10
        images = sample(load(source), labels, seed=self.seed, **options)
        return fid(self._features(images), self.real) / self.floor


def kept(folder: Path) -> Iterator[Path]:
    """The checkpoints of a run, in order."""
    yield from sorted(path for path in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d{8}", path.stem))
    yield folder / "model.safetensors"


def draw(curves: dict[str, list[tuple[float, float]]], path: Path, axis: str, *, doubling: bool) -> None:
    """One line a curve, on axes that double from tick to tick or are even."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=colormaps["tab20" if len(curves) > 10 else "tab10"].colors)  # type: ignore[attr-defined]
    for title, points in curves.items():
        axes.plot(*zip(*sorted(points), strict=True), marker=".", label=title)
    axes.axhline(1, color="0.6", lw=1)
    if doubling:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
    else:
        axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(axis)
    axes.set_ylabel("FID, in floors (held-out images)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = [f"{name}-mnist" for name in WAYS]
    parser.add_argument("--models", nargs="+", default=models, help="checkpoints")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--training", type=Path, nargs="*", default=[], help="folders of runs with kept checkpoints")
    parser.add_argument("--n", type=int, default=2000, help="samples of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/evaluations"), help="folder of what is measured")
    options = parser.parse_args()
    store = options.out / f"n{options.n}-seed{options.seed}.json"
    done: dict[str, float] = read(store)
    judge = Judge(options.n, options.seed)

    def floors(source: str, **options: Any) -> float:
        about = read_checkpoint(source)
        key = json.dumps([source, about.model, about.steps, about.seed, options], sort_keys=True)
        if key not in done:
            done[key] = judge.floors(source, **options)
            write(store, done)
            print(f"{source}, {options}: {done[key]:.2f} floors", flush=True)
        return done[key]

    curves: dict[str, list[tuple[float, float]]] = {}
    for source in options.models:
        model = read_checkpoint(source).model
        for way in WAYS[model]:
            for evaluations in options.evaluations:
                if (steps := way.steps(evaluations)) >= 1:
                    found = floors(source, **({"steps": steps} if way.stepped else {}), **way.options)
                    curves.setdefault(f"{model}, {way.title}", []).append((evaluations, found))
    rows = [
        [title, *(f"{dict(points)[e]:.2f}" if e in dict(points) else "" for e in options.evaluations)]
        for title, points in curves.items()
    ]
    head = ["network evaluations", *map(str, options.evaluations)]
    print(keep("evaluations", head, rows, n=options.n, seed=options.seed))
    draw(curves, options.out / "evaluations.png", "network evaluations", doubling=True)
    minutes = {
        read_checkpoint(folder).model: [
            (read_checkpoint(path).seconds / 60, floors(str(path))) for path in kept(folder)
        ]
        for folder in options.training
    }
    if minutes:
        for title, points in minutes.items():
            print(title, ", ".join(f"{x:.1f} min {y:.2f}" for x, y in points))
        draw(minutes, options.out / "minutes.png", "minutes of training", doubling=False)
    print(f"{options.n:,} samples, seed {options.seed}, held-out training images of mnist; {machine()}")


if __name__ == "__main__":
    main()
