"""Compare the likelihoods of the VAE: same network, same seed, same length of training.

    python benchmarks/vae_likelihoods.py --minutes 2

Samples are scored by the Frechet distance to 5,000 validation images in the penultimate features of a small
classifier trained here (the test split is not used), and by how often that classifier reads the label asked for.
The floor is the same distance for 5,000 training images; `ratio` is the distance in floors. The bound is in nats of
what each likelihood is a likelihood of, so that only those of equal `of` compare. On a machine with other work on it,
`--steps` makes the runs equal where minutes would not.
"""

import argparse
import itertools
import time
from collections import deque

import torch
import torch.nn.functional as F
from mnistgen_plugins.vae.vae import VAE, VAEConfig
from torch import Tensor, nn

from mnistgen import Dataset, GenerativeModel, Noise, fit, load_data
from mnistgen.data import to_float, to_uint8, train_validation_split
from mnistgen.nn import LIKELIHOODS

CHUNK = 500


class Judge(nn.Module):
    """A small classifier; `features` are the 128 activations before its last layer."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 128)
        convs = [
            layer
            for i, o in itertools.pairwise(widths)
            for layer in (nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
        ]
        self.features = nn.Sequential(*convs, nn.Flatten(), nn.Linear(128 * 9, 128), nn.BatchNorm1d(128), nn.ReLU())
        self.out = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x))  # type: ignore[no-any-return]


def train_judge(data: Dataset, epochs: int = 3, batch_size: int = 256) -> Judge:
    """A judge that reads held-out MNIST digits with more than 99 % right."""
    torch.manual_seed(0)
    judge = Judge()
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=1e-2)
    steps = epochs * len(data) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    targets = data.require_labels()
    for _ in range(steps):
        rows = torch.randint(len(data), (batch_size,))
        x = torch.roll(to_float(data.images[rows]), torch.randint(-2, 3, (2,)).tolist(), (2, 3))
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    judge.eval()
    return judge


@torch.no_grad()
def judged(judge: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and predicted labels of uint8 images, (n, 128) and (n,)."""
    features = torch.cat([judge.features(to_float(part)) for part in images.split(CHUNK)])
    return features, judge.out(features).argmax(1)


def frechet(a: Tensor, b: Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of two sets of features, A and B their covariances."""
    a, b = a.double(), b.double()
    A, B = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(A)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross)


@torch.no_grad()
def samples(model: GenerativeModel, y: Tensor, seed: int) -> Tensor:
    """One uint8 image for each label."""
    places = torch.arange(len(y))
    return torch.cat(
        [
            to_uint8(model.sample(labels, noise=Noise(seed, rows.tolist())))
            for labels, rows in zip(y.split(CHUNK), places.split(CHUNK), strict=True)
        ]
    )


@torch.no_grad()
def bound(model: VAE, data: Dataset) -> float:
    """Mean ELBO of a dataset in nats an image."""
    torch.manual_seed(0)
    parts = zip(data.images.split(CHUNK), data.require_labels().split(CHUNK), strict=True)
    return float(torch.cat([model.log_prob(to_float(images), labels) for images, labels in parts]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="training time of each likelihood")
    parser.add_argument("--steps", type=int, help="training steps of each likelihood, instead of minutes")
    parser.add_argument("--likelihoods", nargs="+", choices=list(LIKELIHOODS), default=list(LIKELIHOODS))
    parser.add_argument("--beta", type=float, default=VAEConfig.beta, help="weight of the KL")
    parser.add_argument("--lr", type=float, default=VAEConfig.lr, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", default=None, help="where the MNIST files are")
    args = parser.parse_args()

    train, validation = train_validation_split(load_data("mnist", data_dir=args.data_dir), seed=0)
    judge = train_judge(train)
    reference, read = judged(judge, validation.images)
    floor = frechet(judged(judge, train.images[: len(validation)])[0], reference)
    expected = validation.require_labels()
    accuracy = (read == expected).double().mean()
    print(f"judge {accuracy:.2%} right, floor {floor:.4f}, n {len(validation)}, seed {args.seed}")
    print(f"{'likelihood':22}{'steps':>7}{'img/s':>7}{'Frechet':>9}{'ratio':>7}{'label':>8}{'ELBO':>9}  of", flush=True)

    for name in args.likelihoods:
        torch.manual_seed(args.seed)
        model = VAE(VAEConfig(likelihood=name, beta=args.beta, lr=args.lr))
        budget = None if args.steps else 60 * args.minutes
        start = time.perf_counter()
        (step,) = deque(fit(model, train, steps=args.steps, budget=budget, seed=args.seed, device="cpu"), maxlen=1)
        speed = step.images / (time.perf_counter() - start)
        ema = step.ema
        assert isinstance(ema, VAE)
        features, labels = judged(judge, samples(ema, expected, args.seed))
        distance, agreement = frechet(features, reference), (labels == expected).double().mean()
        print(
            f"{name:22}{step.number:7}{speed:7.0f}{distance:9.3f}{distance / floor:7.1f}{agreement:8.2%}"
            f"{bound(ema, validation):9.1f}  {ema.likelihood_of}",
            flush=True,
        )


if __name__ == "__main__":
    main()
