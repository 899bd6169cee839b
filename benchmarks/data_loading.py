"""How long it takes from MNIST on disk to tensors, warm, and from the other formats that are read.

    python benchmarks/data_loading.py

The first line is held to a budget of 0.2 s. The others are of the same images, exported to a temporary folder;
`--images` says how many, since a folder of 60,000 pictures is mostly a benchmark of the file system.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mnistgen.data import data_folder, export_data, load_data

BUDGET = 0.2  # seconds


def seconds(function: Callable[[], object], repeats: int) -> float:
    """The best of `repeats` runs after one that warms the page cache."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="images in the exported formats")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    mnist = seconds(lambda: load_data("mnist", download=False), options.repeats)
    print(f"MNIST, 60000 images from {data_folder()}: {mnist:.3f} s, {mnist / BUDGET:.2f} of the budget of {BUDGET} s")

    data = load_data("mnist", download=False).subset(torch.arange(options.images))
    with tempfile.TemporaryDirectory() as name:
        for format, path in (("idx", "idx"), ("npz", "d.npz"), ("csv", "d.csv"), ("png", "png")):  # noqa: A001
            target = Path(name) / path
            export_data(data, target, format)
            took = seconds(lambda source=target: load_data(source), min(options.repeats, 3))  # type: ignore[misc]
            print(f"{format}, {len(data)} images: {took:.3f} s, {took / len(data) * 1e6:.1f} us an image")


if __name__ == "__main__":
    main()
