"""The shipped checkpoints as they ship: grey levels calibrated where a model can, parameters in half precision.

    python benchmarks/calibrate.py iwae sid             grey levels, and float16
    python benchmarks/calibrate.py flow --images 0      float16 alone
    python -m mnistgen.integrity                        their checksums, afterwards

A network makes some greys too often and others too rarely, in every image. The samples drawn here have the classes of
the training images in turn, and seeds of their own; from them and from the training images alone come the edges
between grey levels (`GreyLevels.calibrate`). No evaluator and no test image has a part in it.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnistgen import load_data
from mnistgen.checkpoint import load, rewrite
from mnistgen.data import Dataset, train_validation_split
from mnistgen.files import atomic_file
from mnistgen.model import GenerativeModel
from mnistgen.published import SHIPPED
from mnistgen.sampling import sample

RESULTS = Path(__file__).with_name("results")
SEED = 777  # not that of any score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=int, default=10_000, help="samples whose grey levels are counted; 0: none")
    arguments = parser.parse_args()
    train, _ = train_validation_split(load_data("mnist"), 5000, seed=0)
    for name in arguments.models:
        path = SHIPPED[-1] / f"{name}-mnist.safetensors"
        model, former = load(path), digest(path)
        if arguments.images:
            calibrate(model, train, arguments.images)
        rewrite(path, path, model=model, dtype=torch.float16)
        for record in RESULTS.glob("times-mnist.json" if arguments.images else "*-mnist*.json"):
            carry_over(record, name, former, digest(path))
        print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB", flush=True)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def carry_over(path: Path, name: str, former: str, now: str) -> None:
    """Let a record of the former file be that of the one now, and say which file was measured.

    A time is no other after calibration, and a score none in half precision: samples differ by a hundredth of a level.
    """
    record = json.loads(path.read_text("utf-8"))
    if record.get(name, {}).get("checkpoint_sha256") == former != now:
        record[name] |= {"checkpoint_sha256": now, "measured_sha256": record[name].get("measured_sha256", former)}
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def calibrate(model: GenerativeModel, train: Dataset, n: int) -> None:
    """Draw n samples, and move the edges to where their grey levels are as frequent as in the training images."""
    space: Any = next(module for module in model.modules() if hasattr(module, "calibrate"))
    numbers: list[Tensor] = []  # that the samples' grey levels are decoded from
    decode = space.decode

    def recording(x: Tensor) -> Tensor:
        numbers.append(x.detach().flatten().clone())
        levels: Tensor = decode(x)
        return levels

    space.decode = recording
    sample(model, train.y[:n], seed=SEED)
    del space.decode
    space.calibrate(torch.cat(numbers), train.images)


if __name__ == "__main__":
    main()
