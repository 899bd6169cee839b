"""The shipped checkpoints as they ship: grey levels calibrated where a model can, parameters in half precision.

    python benchmarks/calibrate.py wgan_gp sid          grey levels, and float16
    python benchmarks/calibrate.py flow --images 0      float16 alone
    python -m mnistgen.integrity                        their checksums, afterwards

A network makes some greys too often and others too rarely, in every image. The samples drawn here have the classes of
the training images in turn, and seeds of their own; from them and from the training images alone come the edges
between grey levels (`GreyLevels.calibrate`). No evaluator and no test image has a part in it.
"""

import argparse
from typing import Any

import torch
from torch import Tensor

from mnistgen import load_data
from mnistgen.checkpoint import load, rewrite
from mnistgen.data import Dataset, train_validation_split
from mnistgen.model import GenerativeModel
from mnistgen.published import SHIPPED
from mnistgen.sampling import sample

SEED = 777  # not that of any score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=int, default=10_000, help="samples whose grey levels are counted; 0: none")
    arguments = parser.parse_args()
    train, _ = train_validation_split(load_data("mnist"), 5000, seed=0)
    for name in arguments.models:
        path = SHIPPED[-1] / f"{name}-mnist.safetensors"
        model = load(path)
        if arguments.images:
            calibrate(model, train, arguments.images)
        rewrite(path, path, model=model, dtype=torch.float16)
        print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB", flush=True)


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
