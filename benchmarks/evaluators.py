"""The accuracy of the evaluators, of five seeds of A's recipe and their committee, and of the ladder.

    python benchmarks/evaluators.py                     on idle cores: one run after the other, with all cores
    python benchmarks/evaluators.py --jobs 2            two runs at a time, each with half of the cores
    python benchmarks/evaluators.py --smoke             a few steps each, to see that it works

Every run is `mnistgen evaluator train` with its defaults, into a folder of its own; a finished run is not repeated,
and an interrupted one goes on. Recipes are chosen by held-out training images, and nothing here is by test images. A is
seed 0 of its recipe and B is seed 1 of its own, whatever their test accuracies are; `--ship FOLDER` copies the two
there, and beside them an untrained network whose normalisation has seen training images.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mnistgen import load_data
from mnistgen.checkpoint import read_checkpoint
from mnistgen.data import Dataset, to_float, train_validation_split
from mnistgen.evaluator import (
    SHIPPED,
    Evaluation,
    build_classifier,
    evaluate,
    evaluator_hash,
    load_classifier,
    save_classifier,
)
from mnistgen.files import atomic_file

SEEDS = range(5)
REPEATS = 3  # timings of a forward pass, of which the fastest counts


class Trained(NamedTuple):
    network: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.network}-{self.seed}"


A, B = Trained("cnn", 0), Trained("resnet", 1)
LADDER = [Trained(name, 0) for name in ("logistic", "mlp", "lenet")]
RUNS = [A, B, *(Trained(A.network, seed) for seed in SEEDS if seed != A.seed), *LADDER]


def train(run: Trained, home: Path, threads: int, smoke: bool) -> None:
    """Train one network, unless that is done; go on where it was interrupted."""
    folder = home / run.name
    done = folder / "done.json"
    if done.exists():
        return
    command = [sys.executable, "-m", "mnistgen", "evaluator", "train", run.network, "--seed", str(run.seed)]
    command += ["--out", str(folder), "--samples", str(folder), *(["--steps", "20"] if smoke else [])]
    command += ["--resume"] if (folder / "resume.pt").exists() else ["--overwrite"]
    print(f"{run.name}: training with {threads} threads", flush=True)
    start = time.monotonic()
    with (home / f"{run.name}.log").open("a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
    seconds = read_checkpoint(folder).seconds
    with atomic_file(done) as temporary:
        temporary.write_text(json.dumps({"seconds": seconds, "threads": threads}) + "\n", "utf-8")
    print(f"{run.name}: done, {time.monotonic() - start:.0f} s", flush=True)


def test(run: Trained, home: Path, data: Dataset) -> tuple[dict[str, Any], torch.Tensor]:
    """What a trained network is on the test images, and its probabilities."""
    model = load_classifier(home / run.name)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = evaluate(model, data)
        times.append(time.perf_counter() - start)
    done = json.loads((home / run.name / "done.json").read_text("utf-8"))
    row = {
        "network": run.network,
        "seed": run.seed,
        "hash": evaluator_hash(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": (home / run.name / "model.safetensors").stat().st_size,
        "training_seconds": done["seconds"],
        "training_threads": done["threads"],
        "images_per_second": round(len(data) / min(times)),
        "threads": torch.get_num_threads(),
        "validation_loss": read_checkpoint(home / run.name).scores.get("validation_loss"),
        **{key: value for key, value in result.to_dict().items() if key not in ("confusion", "n")},
    }
    return row, result.probabilities


def ship_untrained(path: Path) -> None:
    """A's network with its first weights. Batches of training images give its normalisation their statistics, without
    which depth would leave nothing of the images."""
    train, _ = train_validation_split(load_data("mnist"), 5000, seed=0)
    model = build_classifier("cnn", seed=2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    model.train()
    with torch.no_grad():
        for batch in train.images[:20_000].split(1000):
            model(to_float(batch))
    save_classifier(path, model.eval(), dataset=train, seed=2)


def line(name: str, row: dict[str, Any]) -> str:
    low, high = row["interval_95"]
    figures = (
        f"{name:<12}{row['accuracy']:>8.2%}  {low:.2%}-{high:.2%}{row['errors']:>7}{row['calibration_error']:>9.4f}"
    )
    if "training_seconds" not in row:
        return figures
    return (
        f"{figures}{row['parameters']:>9}{row['training_seconds']:>10.0f} s x{row['training_threads']}"
        f"{row['images_per_second']:>12}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/evaluators/benchmark"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; the cores are shared out")
    parser.add_argument("--ship", type=Path, help="copy A and B into this folder (mnistgen/weights)")
    parser.add_argument("--smoke", action="store_true", help="a few steps each, in a folder of its own")
    options = parser.parse_args()
    home = options.out / "smoke" if options.smoke else options.out
    home.mkdir(parents=True, exist_ok=True)

    threads = max(1, torch.get_num_threads() // options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda run: train(run, home, threads, options.smoke), RUNS))

    data = load_data("mnist", "test")
    results = {run: test(run, home, data) for run in RUNS}
    rows = {run.name: row for run, (row, _) in results.items()}
    committee = torch.stack([probabilities for run, (_, probabilities) in results.items() if run.network == A.network])
    together = Evaluation(committee.mean(0), data.require_labels()).to_dict()
    accuracies = [row["accuracy"] for row in rows.values() if row["network"] == A.network]
    summary = {"mean": sum(accuracies) / len(accuracies), "min": min(accuracies), "max": max(accuracies)}

    print(f"\n{'':<12}{'accuracy':>8}  {'95% interval':<13}{'errors':>7}{'calibr.':>9}", end="")
    print(f"{'weights':>9}{'training':>15}{'images/s':>12}")
    for run in RUNS:
        print(line(run.name + {A: " (A)", B: " (B)"}.get(run, ""), rows[run.name]))
    print(line("committee", together))
    print(f"\nA's recipe, {len(accuracies)} seeds: mean {summary['mean']:.3%}, ", end="")
    print(f"range {summary['min']:.2%} to {summary['max']:.2%}")
    report = {"runs": rows, "committee": together, "recipe_a": summary, "a": A.name, "b": B.name}
    report |= {"torch": torch.__version__, "test_hash": data.hash}
    with atomic_file(home / "evaluators.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(f"numbers: {home / 'evaluators.json'}")
    if options.ship:
        for name, run in (("A", A), ("B", B)):
            with atomic_file(options.ship / SHIPPED[name]) as temporary:
                temporary.write_bytes((home / run.name / "model.safetensors").read_bytes())
        ship_untrained(options.ship / SHIPPED["random"])
        print(f"shipped: {', '.join(str(options.ship / name) for name in SHIPPED.values())}")


if __name__ == "__main__":
    main()
