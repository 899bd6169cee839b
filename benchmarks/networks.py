"""Networks for the flow: the same training, the same wall time, and what each makes of it.

    python benchmarks/networks.py --minutes 10 --jobs 2
    python benchmarks/networks.py --minutes 0.2 --n 500 --contestants unet14 transformer     to see that it works

Each is `flow` with its defaults but for what its line says, trained for the same time on the training images but
those held out, and judged on these by the evaluator A: the test split is not used. `images/s` is the speed of training,
`MMAC` the multiplications of one evaluation, `ms` the time of one evaluation of an image in a batch of 250, in bfloat16
where the device computes in it. FID is in floors, those of as many training images against the held-out ones. With
`--jobs 2`, two train at a time, each with half of the cores; what was made is not made again.

unet14          patches of 2x2 pixels: 14x14 and 7x7, 64 and 128 channels, one block a level: what is shipped
unet14-x        the same, with the data predicted in place of the velocity; the loss stays that of the velocity
unet14-deep     48 and 96 channels, two blocks a level
unet14-wide     96 and 192 channels, one block a level
unet14-plain    unet14 in the plain space of pixels, [-1, 1], centred and scaled
unet28          full resolution: 28x28, 14x14 and 7x7, 16, 48 and 96 channels, one block a level
transformer     patches of 4x4 pixels, 49 tokens of 192 channels, 6 blocks with adaptive layer norm (Peebles & Xie 2023)
"""

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from families import cores, read, write
from kept import keep, machine
from mnistgen_plugins.diffusion.flow import Flow, FlowConfig
from mnistgen_plugins.diffusion.unet import Attention, Block, Embedding, UNet, group_norm
from torch import Tensor, nn

from mnistgen import fit, load_data, sample
from mnistgen.data import train_validation_split
from mnistgen.evaluator import extract, load_evaluator
from mnistgen.metrics import fid, prdc
from mnistgen.training import autocast_dtype

HELD_OUT = 5000
BATCH = 250


class DataFlow(Flow):
    """The velocity by way of the data that the network gives; the divisor is bounded, as the paper's is not."""

    def velocity(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return (self.evaluate(x_t, 2 * t[:, None] - 1, y) - x_t) / (1 - t).clamp_min(0.05).view(-1, 1, 1, 1)


class UNet28(nn.Module):
    """The U-Net at full resolution, with one level more."""

    hidden = UNet.hidden

    def __init__(self, num_classes: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        dim = 2 * widths[-1]
        self.embed = Embedding(num_classes, dim, 1)
        self.into = nn.Conv2d(1, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Block(width, width, dim) for width in widths)
        self.lower = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in itertools.pairwise(widths))
        self.attention = Attention(widths[-1])
        self.up = nn.ModuleList(Block(2 * width, width, dim) for width in reversed(widths))
        self.upper = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in itertools.pairwise(widths))
        self.norm, self.out = group_norm(widths[0]), nn.Conv2d(widths[0], 1, 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, c: Tensor, y: Tensor) -> Tensor:
        e = self.embed(c, y)
        h, kept = self.into(x), []
        for level, block in enumerate(self.down):
            h = block(self.lower[level - 1](F.pixel_unshuffle(h, 2)) if level else h, e)
            kept.append(h)
        h = self.attention(h)
        for level, block in enumerate(self.up):
            h = block(torch.cat([h, kept.pop()], 1), e)
            if level < len(self.upper):
                h = F.pixel_shuffle(self.upper[-1 - level](h), 2)
        out: Tensor = self.out(F.silu(self.norm(h))).float()
        return out


class Transformer(nn.Module):
    """Blocks of attention and MLP over patches of 4x4, modulated by time and class, each beginning as the identity."""

    hidden = UNet.hidden

    def __init__(self, num_classes: int, width: int, depth: int, heads: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.embed = Embedding(num_classes, width, 1)
        self.into = nn.Linear(16, width)
        self.places = nn.Parameter(0.02 * torch.randn(49, width))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.project = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
            for _ in range(depth)
        )
        self.modulate = nn.ModuleList(nn.Linear(width, 6 * width) for _ in range(depth))
        self.finish, self.out = nn.Linear(width, 2 * width), nn.Linear(width, 16)
        for layer in (*self.modulate, self.finish, self.out):
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, c: Tensor, y: Tensor) -> Tensor:
        e = self.embed(c, y)[:, None]
        h = self.into(rearrange(x, "b 1 (h p) (w q) -> b (h w) (p q)", p=4, q=4)) + self.places
        for qkv, project, mlp, modulate in zip(self.qkv, self.project, self.mlp, self.modulate, strict=True):
            shift1, scale1, gate1, shift2, scale2, gate2 = modulate(e).chunk(6, -1)
            q, k, v = rearrange(
                qkv(_norm(h) * (1 + scale1) + shift1), "b n (three i d) -> three b i n d", three=3, i=self.heads
            )
            weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).float().softmax(-1).to(v.dtype)
            h = h + gate1 * project(rearrange(weights @ v, "b i n d -> b n (i d)"))
            h = h + gate2 * mlp(_norm(h) * (1 + scale2) + shift2)
        shift, scale = self.finish(e).chunk(2, -1)
        h = self.out(_norm(h) * (1 + scale) + shift).float()
        image: Tensor = rearrange(h, "b (h w) (p q) -> b 1 (h p) (w q)", h=7, p=4)
        return image


def _norm(h: Tensor) -> Tensor:
    return F.layer_norm(h, h.shape[-1:])


def _with(network: nn.Module, **config: Any) -> Flow:
    model = Flow(FlowConfig(**config))
    model.network = network  # type: ignore[assignment]
    return model


CONTESTANTS: dict[str, Callable[[], Flow]] = {
    "unet14": lambda: Flow(FlowConfig()),
    "unet14-x": lambda: DataFlow(FlowConfig()),
    "unet14-deep": lambda: Flow(FlowConfig(width=48, blocks=2)),
    "unet14-wide": lambda: Flow(FlowConfig(width=96)),
    "unet14-plain": lambda: Flow(FlowConfig(pixels="plain")),
    "unet28": lambda: _with(UNet28(10, (16, 48, 96))),
    "transformer": lambda: _with(Transformer(10, 192, 6), lr=1e-3),
}


def multiplications(model: Flow) -> int:
    """Of one evaluation of one image: those of convolutions, linear layers and products of matrices."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval().denoise(torch.zeros(1, 1, 28, 28), torch.full((1,), 0.5), torch.zeros(1, dtype=torch.int64))
    return int(counter.get_total_flops()) // 2


@torch.no_grad()
def milliseconds(model: Flow) -> float:
    """Of one evaluation, an image of a batch."""
    x, t, y = torch.randn(BATCH, 1, 28, 28), torch.full((BATCH,), 0.5), torch.arange(BATCH) % 10
    x = x.contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        model.eval().denoise(x, t, y)
        times.append(time.perf_counter() - start)
    return 1000 * min(times) / BATCH


def levels(images: Tensor) -> dict[str, float]:
    """Shares of the pixels that are 0, 1 to 9, and 255."""
    shares = {"black": images == 0, "almost": (images > 0) & (images < 10), "white": images == 255}
    return {name: float(share.float().mean()) for name, share in shares.items()}


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one and judge it."""
    torch.manual_seed(options.seed)
    training, held_out = train_validation_split(load_data("mnist"), HELD_OUT, options.seed)
    model = CONTESTANTS[name]()
    facts = {"weights": sum(p.numel() for p in model.parameters()), "mmac": multiplications(model) / 1e6}
    *_, step = fit(model, training, budget=60 * options.minutes, seed=options.seed)
    ema = step.ema
    assert isinstance(ema, Flow)
    evaluator = load_evaluator("A")
    real = extract(evaluator, held_out.images)["penultimate"].double()
    floor = fid(extract(evaluator, training.images[: options.n])["penultimate"].double(), real)
    labels = torch.arange(options.n) % 10
    images = sample(ema, labels, seed=options.seed)
    features = extract(evaluator, images, layers=("penultimate", "logits"))
    return facts | {
        "rate": step.images / step.seconds,
        "ms": milliseconds(ema),
        "floors": fid(features["penultimate"].double(), real) / floor,
        "labels": float((features["logits"].argmax(1) == labels).float().mean()),
        "coverage": prdc(features["penultimate"].double(), real).coverage,
        **levels(images),
        "threads": torch.get_num_threads(),
    }


def run(name: str, options: argparse.Namespace, threads: int) -> None:
    """In a process of its own."""
    if (options.out / f"{name}.json").exists():
        return
    print(f"{name}: training for {options.minutes:g} minutes", flush=True)
    arguments = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(arguments, check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each")
    parser.add_argument("--n", type=int, default=5000, help="samples of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/networks"), help="folder of what was measured")
    parser.add_argument("--only", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        write(options.out / f"{options.only}.json", measure(options.only, options))
        return
    threads = max(1, torch.get_num_threads() // options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda name: run(name, options, threads), options.contestants))

    def shown(found: dict[str, Any]) -> list[str]:
        return [f"{found['black']:.1%}", f"{found['almost']:.2%}", f"{found['white']:.2%}"]

    held_out = train_validation_split(load_data("mnist"), HELD_OUT, options.seed)[1]
    rows = [["held-out images", *[""] * 7, *shown(levels(held_out.images))]]
    for name in options.contestants:
        found = read(options.out / f"{name}.json")
        rows.append(
            [
                f"`{name}`",
                f"{found['weights']:,}",
                f"{found['mmac']:.0f}",
                f"{found['rate']:,.0f}",
                f"{found['ms']:.2f}",
                f"{found['floors']:.2f}",
                f"{found['labels']:.2%}",
                f"{found['coverage']:.3f}",
                *shown(found),
            ]
        )
    head = ["", "weights", "MMAC", "images/s", "ms", "FID / floor", "labels", "coverage", "black", "1 to 9", "white"]
    print(keep("networks", head, rows, n=options.n, seed=options.seed))
    seed = f"{options.n:,} samples, seed {options.seed}, after {options.minutes:g} minutes, {cores(threads)} each"
    print(f"\n{machine()}, {autocast_dtype(torch.device('cpu'), 'auto')}; {seed}.")


if __name__ == "__main__":
    main()
