"""Test log-likelihood of the VAE and the IWAE, on the same networks, for the same length of training.

    python benchmarks/binarised_likelihood.py
    python benchmarks/binarised_likelihood.py --checkpoint iwae-mnist another.safetensors --images 1000

Trains the plugin `iwae` on the 60,000 training images, binarised anew in each step, with 1 importance sample (the VAE
of Kingma & Welling 2014) and with more (Burda et al. 2016), for as many `--epochs`, or `--minutes`, each. The test
images are binarised once, by `--seed`, and log p(b | y) of each is estimated by `--samples` importance samples from
the encoder, which is a lower bound on average; `ELBO` is the one of a single sample. The figure in `+-` is the standard
error of the mean over the images.

The models know the class. Since p(b) >= p(b | y) p(y) with p(y) = 1/10, -log p(b) <= -log p(b | y) + ln 10; that bound
is what compares with the figures of models that do not. Theirs, in nats, with 5,000 samples, one stochastic layer and
training until nothing more is gained: VAE 86.8 to 89.8; IWAE with 50 samples 84.8 (Burda et al. 2016), and 86.8 where
others have repeated it.

The decoder runs in bfloat16 where the device multiplies in it (`--precision`). Rounded logits are still those of a
distribution, so the estimate stays one of a lower bound, but of a slightly different model; the first line of each
model gives the difference to float32, on the same draws for 20 images.
"""

import argparse
import math
import time
from collections import deque
from contextlib import nullcontext

import torch
from mnistgen_plugins.vae.iwae import IWAE, IWAEConfig
from torch import Tensor

from mnistgen import fit, load, load_data
from mnistgen.training import autocast_dtype, resolve_device

IMAGES = 50  # evaluated at once
CHECKED = 20  # of them also in float32


def binarised(images: Tensor, seed: int) -> Tensor:
    """uint8 images as black and white, white with the probability of their grey: (n, 1, 28, 28) in {-1, 1}."""
    v = images.float() / 255
    return 2 * (torch.rand(v.shape, generator=torch.Generator().manual_seed(seed)) < v).float() - 1


@torch.no_grad()
def log_prob(model: IWAE, x: Tensor, y: Tensor, samples: int, seed: int, dtype: torch.dtype | None) -> Tensor:
    """log p(b | y) of each image by `samples` draws, (n,) nats."""
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    parts = []
    for images, labels in zip(x.split(IMAGES), y.split(IMAGES), strict=True):
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            parts.append(model.log_prob(images.to(device), labels.to(device), importance_samples=samples).cpu())
    return torch.cat(parts)


def trained(k: int, args: argparse.Namespace) -> tuple[IWAE, str]:
    """A model with k importance samples, and how long it was trained."""
    torch.manual_seed(args.seed)
    model = IWAE(IWAEConfig(importance_samples=k, dreg=args.dreg))
    length = {"budget": 60 * args.minutes} if args.minutes else {"epochs": args.epochs}
    train = load_data("mnist", data_dir=args.data_dir)
    steps = fit(model, train, **length, seed=args.seed, device=args.device, precision=args.precision)
    (step,) = deque(steps, maxlen=1)
    assert isinstance(step.ema, IWAE)
    return step.ema, f"{step.epoch:.1f} epochs in {step.seconds / 60:.1f} min"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    samples = [1, IWAEConfig.importance_samples]
    parser.add_argument(
        "--importance-samples", type=int, nargs="+", default=samples, help="a model is trained for each"
    )
    parser.add_argument("--epochs", type=float, default=IWAEConfig.epochs, help="training length of each")
    parser.add_argument("--minutes", type=float, help="training time of each, instead of epochs")
    parser.add_argument("--dreg", action="store_true", help="train with the doubly reparameterised gradient")
    parser.add_argument("--checkpoint", nargs="+", default=[], help="evaluate these instead of training")
    parser.add_argument("--images", type=int, help="the first so many test images; default: all")
    parser.add_argument("--samples", type=int, default=5000, help="importance samples of the estimate")
    parser.add_argument(
        "--seed", type=int, default=0, help="of training, of the binarised test images and of the samples"
    )
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data-dir", default=None, help="where the MNIST files are")
    args = parser.parse_args()

    device = resolve_device(args.device)
    dtype = autocast_dtype(device, args.precision)
    test = load_data("mnist", "test", data_dir=args.data_dir)
    x, y = binarised(test.images[: args.images], args.seed), test.require_labels()[: args.images]
    print(f"{len(x)} test images binarised by seed {args.seed}, {args.samples} samples, {'bf16' if dtype else 'fp32'}")

    for source in args.checkpoint or args.importance_samples:
        if args.checkpoint:
            model, about = load(source, device=device), f"checkpoint {source}"
            if not isinstance(model, IWAE):
                raise SystemExit(f"{source}: is a {type(model).__name__}, and this evaluates an IWAE.")
        else:
            model, about = trained(source, args)
        k = model.config.importance_samples
        print(f"\n{'VAE' if k == 1 else f'IWAE-{k}'}, {about}")
        if dtype:
            half, full = (log_prob(model, x[:CHECKED], y[:CHECKED], args.samples, args.seed, d) for d in (dtype, None))
            print(f"  bf16 - fp32, {len(half)} images {(half - full).mean():+9.3f}  +- {deviation(half - full):.3f}")
        start = time.perf_counter()
        estimate = log_prob(model, x, y, args.samples, args.seed, dtype)
        seconds = time.perf_counter() - start
        elbo = log_prob(model, x, y, 1, args.seed, dtype)
        print(f"  -ELBO                  {-elbo.mean():9.2f}  +- {deviation(elbo):.2f}")
        print(f"  -log p(b | y)          {-estimate.mean():9.2f}  +- {deviation(estimate):.2f}  ({seconds:.0f} s)")
        print(f"  -log p(b), at most     {-estimate.mean() + math.log(10):9.2f}", flush=True)


def deviation(values: Tensor) -> float:
    """The standard error of the mean."""
    return float(values.std() / math.sqrt(len(values)))


if __name__ == "__main__":
    main()
