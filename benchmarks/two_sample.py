"""What the two-sample test sees: its accuracy on real images with noise in the ink, and on images that are given.

    python benchmarks/two_sample.py                                     the power curve; MNIST has to be on disk
    python benchmarks/two_sample.py --sources flow.npz mnist:train      those as well; an NPZ by `mnistgen sample`
    python benchmarks/two_sample.py --json benchmarks/results/two_sample.json

Each row is one training of the network of `mnistgen score --two-sample`, as it is there: images against as many test
images, trained on four fifths and tested on the rest. The rows of the curve are training images whose pixels other than
black have Gaussian noise of sigma grey levels, rounded, at least 1; sigma 0 is the control. A row costs as much as a
quarter of `--two-sample`. Rows that `--json` has already are kept.
"""

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnistgen import load_data
from mnistgen.data.dataset import content_hash
from mnistgen.files import atomic_file
from mnistgen.scoring import open_source
from mnistgen.scoring.classifiers import TWO_SAMPLE_STEPS, distinguish
from mnistgen.scoring.reference import class_counts, stratified_indices

SIGMAS = (0.0, 1.0, 2.0, 4.0, 8.0)


def noisy_ink(images: Tensor, sigma: float, seed: int) -> Tensor:
    """Images with Gaussian noise on what is not black: (n, 1, 28, 28) uint8 -> the same."""
    noise = sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(images > 0, (images + noise).round().clamp(1, 255).to(torch.uint8), images)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="images a side")
    parser.add_argument("--steps", type=int, default=TWO_SAMPLE_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sigma", type=float, nargs="*", default=SIGMAS, help="grey levels of noise")
    parser.add_argument("--sources", nargs="*", default=[], help="what `mnistgen score` takes, as many images")
    parser.add_argument("--json", type=Path, help="write the record to this file, and keep the rows that it has")
    options = parser.parse_args()

    test, train = load_data("mnist", "test", download=False), load_data("mnist", "train", download=False)
    counts = class_counts(test.y, options.n)
    real = test.images[stratified_indices(test.y, counts, seed=options.seed)]
    control = train.images[stratified_indices(train.y, counts, seed=options.seed)]
    record: dict[str, Any] = {
        "command": "python benchmarks/two_sample.py " + " ".join(sys.argv[1:]),
        "n": options.n,
        "steps": options.steps,
        "seed": options.seed,
        "reference_hash": test.hash,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("mnistgen", "torch")},
        "rows": {},
    }
    if options.json and options.json.exists():
        found = json.loads(options.json.read_text("utf-8"))
        if all(found[key] == record[key] for key in ("n", "steps", "seed", "reference_hash", "versions")):
            record["rows"] = found["rows"]

    def row(name: str, images: Tensor) -> None:
        digest = content_hash(images, None)
        if record["rows"].get(name, {}).get("images_hash") != digest:
            result = distinguish(images, real, seed=options.seed, steps=options.steps)
            record["rows"][name] = {
                "accuracy": result.accuracy,
                "interval_95": result.interval,
                "held_out": len(result.labels),
                "images_hash": digest,
            }
            if options.json:
                with atomic_file(options.json) as temporary:
                    temporary.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        found = record["rows"][name]
        low, high = found["interval_95"]
        print(f"| {name} | {found['accuracy']:.1%} ({low:.1%} to {high:.1%}) |", flush=True)

    print("| images | told from test images (95% interval) |\n| --- | ---: |")
    for sigma in options.sigma:
        row(f"real, sigma {sigma:g}", noisy_ink(control, sigma, options.seed) if sigma else control)
    for source in options.sources:
        taken = open_source(source).take(options.n, test.y, seed=options.seed)
        order = torch.randperm(len(taken.data.images), generator=torch.Generator().manual_seed(options.seed))
        row(Path(source).name, taken.data.images[order])
    return 0


if __name__ == "__main__":
    sys.exit(main())
