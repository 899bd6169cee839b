"""Likelihood of the test images under each model that has one of 8-bit pixels, in bits/dim.

    python benchmarks/likelihoods.py                        axial, flow, edm, ddpm, vae and vqvae, as they ship
    python benchmarks/likelihoods.py --models axial-mnist   one anew; the others stay as they are
    python benchmarks/likelihoods.py --models vae-mnist --images 100                        to see that it works

bits/dim = -log P(x | y) / (784 ln 2), of the image's own label y. The diffusion models' is the bound that
`Diffusion.log_prob` describes: the density of the probability-flow ODE a little short of the data, by 32 steps of
Runge-Kutta's method and one Hutchinson probe, and the grey levels given that. Each is an expectation over the method's
own draws, of which one is taken an image; `±` is the standard error over the images. A model that has learnt a
guidance scale (`learnt_guidance`, `middle_guidance`) is a sharper distribution than that of the data and has the worse
likelihood for it.
"""

import argparse
import math

import torch
from families import cores
from kept import keep, machine

from mnistgen import GenerativeModel, load, load_data
from mnistgen.checkpoint import read_checkpoint
from mnistgen.data import to_float
from mnistgen.model import HasLikelihood
from mnistgen.published import record
from mnistgen.sampling import log_likelihood

MODELS = ["axial-mnist", "flow-mnist", "edm-mnist", "ddpm-mnist", "vae-mnist", "vqvae-mnist"]
BATCH = 50
PIXELS = 784


def bits(model: GenerativeModel, images: torch.Tensor, labels: torch.Tensor, seed: int) -> torch.Tensor:
    """bits/dim of each image, (n,)."""
    return -log_likelihood(model, to_float(images), labels, seed=seed, batch_size=BATCH) / (PIXELS * math.log(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="checkpoints")
    parser.add_argument("--images", type=int, default=500, help="the first so many test images")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    test = load_data("mnist", "test")
    rows = []
    for source in options.models:
        model = load(source)
        if not isinstance(model, HasLikelihood) or model.likelihood_of != "8-bit pixels":
            parser.error(f"{source} has no likelihood of 8-bit pixels")
        found = bits(model, test.images[: options.images], test.require_labels()[: options.images], options.seed)
        mean, error = found.mean().item(), found.std().item() / math.sqrt(len(found))
        nats = -mean * PIXELS * math.log(2)
        rows.append(
            [f"`{read_checkpoint(source).model}`", model.likelihood, f"{mean:.3f} ± {error:.3f}", f"{nats:.0f}"]
        )
        print(f"{source}: {rows[-1][2]} bits/dim", flush=True)
    head = ["", "what it is", "bits/dim", "nats an image"]
    before = [row for row in record("likelihoods").get("rows", ()) if row[0] not in [mine[0] for mine in rows]]
    every = sorted([*before, *rows], key=lambda row: float(row[2].split()[0]))
    print(keep("likelihoods", head, every, n=options.images, seed=options.seed))
    print(f"\n{options.images:,} test images, seed {options.seed}; {machine()}, {cores(torch.get_num_threads())}")


if __name__ == "__main__":
    main()
