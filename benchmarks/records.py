"""Scores and sampling times of the shipped checkpoints, as records that README and docs are made from.

    python benchmarks/records.py scores                 n = 10,000, seed 0, against MNIST's test split
    python benchmarks/records.py scores --models flow   one model anew; the others stay as they are
    python benchmarks/records.py scores --n 1000        what tests/test_published.py holds the checkpoints to
    python benchmarks/records.py times                  milliseconds a sample, on a machine without other work
    python benchmarks/tables.py                         README and docs from the records

Each is `benchmarks/results/NAME-mnist.json` (with n in the name where it is not 10,000): one entry per model, with the
command, machine, versions, protocol and hash of the checkpoint. An entry is replaced when its measurement is done, so
an interrupted run keeps what it has.
"""

import argparse
import hashlib
import importlib.metadata
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from kept import machine

import mnistgen
from mnistgen.checkpoint import load
from mnistgen.files import atomic_file
from mnistgen.published import SHIPPED
from mnistgen.sampling import sample
from mnistgen.scoring import N, Score, Scorer, open_source

RESULTS = Path(__file__).with_name("results")
NUMBERS = (
    "fid.A.penultimate",
    "fid.B.penultimate",
    "fid.A.early",
    "fid.random.penultimate",
    "kid.A.penultimate",
    "precision.A.penultimate",
    "recall.A.penultimate",
    "density.A.penultimate",
    "coverage.A.penultimate",
    "label_agreement",
    "authentic",
)
TIMED = 1000  # images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scores", "times"))
    parser.add_argument("--models", nargs="+", default=sorted(mnistgen.list_models()))
    parser.add_argument("--n", type=int, default=N, help="samples that are scored")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    size = f"-{arguments.n}" if arguments.what == "scores" and arguments.n != N else ""
    path = RESULTS / f"{arguments.what}-mnist{size}.json"
    record = json.loads(path.read_text("utf-8")) if path.exists() else {}
    scorer = Scorer("mnist") if arguments.what == "scores" else None
    for name in arguments.models:
        checkpoint = SHIPPED[-1] / f"{name}-mnist.safetensors"
        found = _score(scorer, checkpoint, arguments) if scorer else _time(checkpoint)
        record[name] = found | _circumstances(checkpoint)
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n", "utf-8")
        print(name, {key: value for key, value in found.items() if key in ("floors", "milliseconds")}, flush=True)


def _score(scorer: Scorer, checkpoint: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    source = open_source(checkpoint, device=scorer.device)
    score = scorer.score(source, n=arguments.n, seed=arguments.seed)
    real = score.scale["floor"]["mean"]
    return {
        "floors": score.floors_by,
        "intervals_95": {network: _interval(score, network) for network in score.floors_by},
        "numbers": {name: score.numbers[name] for name in NUMBERS},
        "real": {name: real[name] for name in NUMBERS if name in real},
        "protocol": score.protocol_line,
        "n": arguments.n,
        "seed": arguments.seed,
    }


def _interval(score: Score, network: str) -> tuple[float, float]:
    """The 95% interval of the multiple of the floor in one evaluator's features."""
    name = f"fid.{network}.penultimate"
    in_floors = score.replicates[name] * (1 / float(score.scale["floor"]["mean"][name]))
    return in_floors.interval(score.floors_by[network])


def _time(checkpoint: Path) -> dict[str, Any]:
    model = load(checkpoint)
    labels = torch.arange(TIMED) % model.num_classes
    sample(model, labels[:10])
    start = time.perf_counter()
    sample(model, labels)
    return {"milliseconds": (time.perf_counter() - start) * 1000 / TIMED, "n": TIMED}


def _circumstances(checkpoint: Path) -> dict[str, Any]:
    return {
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "command": shlex.join(["python", *sys.argv]),
        "machine": f"{machine()}, {torch.get_num_threads()} threads",
        "versions": {"mnistgen": importlib.metadata.version("mnistgen"), "torch": torch.__version__},
    }


if __name__ == "__main__":
    main()
