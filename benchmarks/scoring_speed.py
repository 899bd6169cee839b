"""How long a score takes, part by part, beside torch-fidelity's Inception FID of as many images in the same run.

    python benchmarks/scoring_speed.py                        10,000 images, on idle cores; over half an hour
    python benchmarks/scoring_speed.py --inception-n 1000     Inception's time scaled from 1,000; four minutes

Scored are images that are given (real training images), in a process of its own, from the command line to the last
line that it prints. torch-fidelity's network gets random weights, which take as long as any, and its own FID of the
same images against as many test images: `--inception-n` images a side, as its time is proportional to them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch

from mnistgen import load_data
from mnistgen.data import Dataset, export_data, import_torchvision
from mnistgen.scoring.reference import class_counts, stratified_indices

TARGET = 25.0  # seconds, 10,000 images on two cores


def score(images: Dataset, folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds of `mnistgen score` as a user sees them, and of its parts."""
    export_data(images, folder / "given.npz", "npz")
    command = [sys.executable, "-m", "mnistgen", "score", str(folder / "given.npz"), "--n", str(len(images))]
    command += ["--out", str(folder / "pictures"), "--json", str(folder / "score.json"), "--quiet"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    seconds = time.perf_counter() - start
    (report,) = json.loads((folder / "score.json").read_text("utf-8"))
    return seconds, report["seconds"]


def inception(images: torch.Tensor, reference: torch.Tensor, folder: Path) -> float:
    """Seconds of torch-fidelity's FID of two sets of grey images, with random weights."""
    import_torchvision()
    import torch_fidelity.feature_extractor_inceptionv3 as module
    from torch_fidelity import calculate_metrics

    class Images(torch.utils.data.Dataset[torch.Tensor]):
        def __init__(self, images: torch.Tensor) -> None:
            self.images = images

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, i: int) -> torch.Tensor:
            return self.images[i].expand(3, -1, -1)

    weights = folder / "random-inception.pth"
    extractor = module.FeatureExtractorInceptionV3
    with patch.object(module, "load_state_dict_from_url", return_value={}), patch.object(extractor, "load_state_dict"):
        torch.save(extractor("inception-v3-compat", ["2048"]).state_dict(), weights)
    start = time.perf_counter()
    calculate_metrics(
        input1=Images(images),
        input2=Images(reference),
        fid=True,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="images to score")
    parser.add_argument("--inception-n", type=int, help="images a side for Inception; default: as many as are scored")
    options = parser.parse_args()
    train, test = load_data("mnist", "train"), load_data("mnist", "test")
    chosen = train.subset(
        stratified_indices(train.require_labels(), class_counts(test.require_labels(), options.n), seed=0)
    )
    count = options.inception_n or options.n
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds, parts = score(chosen, folder)
        print(f"mnistgen score, {options.n} given images: {seconds:.1f} s", end="")
        print(f" (target {TARGET:.0f} s)" if options.n == 10_000 else "")
        for part, spent in parts.items():
            print(f"  {part:<22}{spent:7.2f} s")
        print(f"  {'start and the rest':<22}{seconds - sum(parts.values()):7.2f} s", flush=True)
        theirs = inception(chosen.images[:count], test.images[:count], folder)
    scaled = theirs * options.n / count
    print(f"torch-fidelity's Inception FID, {count} images a side: {theirs:.1f} s", end="")
    print(f", so {scaled:.0f} s for {options.n}" if count != options.n else "")
    print(f"ratio: {scaled / seconds:.0f}")
    if options.n == 10_000 and seconds > TARGET:
        sys.exit(1)


if __name__ == "__main__":
    main()
