"""Time to draw images: the shipped diffusion models, and beside them a network of diffusers under its DDIM.

    pip install diffusers==0.42.1
    python benchmarks/sampling_speed.py
    python benchmarks/sampling_speed.py --n 500 --repeats 1                                 to see that it works

`flow-mnist`, `sid-mnist` and `meanflow-mnist` draw --n labelled images as `mnistgen.sample` does by default. diffusers'
UNet2DModel has 32, 48 and 64 channels, the last two levels with attention, and a class embedding, which makes it as
many weights as `flow-mnist` has, as near as its widths allow; it is not trained, which its speed does not depend on. It
takes as many steps of its DDIMScheduler as `flow` takes evaluations, in the same batches, in float32 and in bfloat16
autocast; fewer images are drawn with it, and the time is scaled. All in one run, in turn, each the median of the
repeats.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from families import cores
from kept import keep, machine
from torch import Tensor

from mnistgen import GenerativeModel, load, sample
from mnistgen.checkpoint import is_training_only
from mnistgen.data.torchvision_shim import import_torchvision
from mnistgen.sampling import BATCH

OURS = ("flow-mnist", "sid-mnist", "meanflow-mnist")
FEWER = 8  # times fewer images are drawn with diffusers
CHANNELS = (32, 48, 64)
EVALUATIONS = 8  # of as many steps of Adams and Bashforth's method


def weights(network: torch.nn.Module) -> int:
    """Of one that draws: not those that only its training needs."""
    return sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if not (isinstance(network, GenerativeModel) and is_training_only(network, name))
    )


def theirs(bfloat16: bool) -> tuple[int, Callable[[int], Tensor]]:
    """The number of weights of diffusers' network, and what draws n images with it."""
    import_torchvision()  # which diffusers imports, and which is in want of a shim beside some builds of torch
    from diffusers import DDIMScheduler, UNet2DModel

    network = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        norm_num_groups=8,
        block_out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=10,
    ).eval()
    scheduler = DDIMScheduler(num_train_timesteps=1000)

    def batch(n: int) -> Tensor:
        scheduler.set_timesteps(EVALUATIONS)
        x, y = torch.randn(n, 1, 28, 28), torch.arange(n) % 10
        precision: Any = torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()
        for t in scheduler.timesteps:
            with precision:
                eps = network(x, t, class_labels=y).sample
            x = scheduler.step(eps.float(), t, x).prev_sample
        return x

    def draw(n: int) -> Tensor:
        with torch.no_grad():
            return torch.cat([batch(min(BATCH, n - start)) for start in range(0, n, BATCH)])

    return weights(network), draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only-ours", action="store_true", help="without diffusers")
    options = parser.parse_args()

    contestants: dict[str, tuple[int, int, Callable[[int], Tensor]]] = {}
    for name in OURS:
        model = load(name)
        labels = torch.arange(options.n) % 10
        contestants[name] = (
            weights(model),
            options.n,
            lambda n, model=model, labels=labels: sample(model, labels[:n], seed=0),  # type: ignore[misc]
        )
    if not options.only_ours:
        for bfloat16 in (False, True):
            count, draw = theirs(bfloat16)
            title = f"diffusers, DDIM, {EVALUATIONS} steps, {'bfloat16' if bfloat16 else 'float32'}"
            contestants[title] = (count, max(1, options.n // FEWER), draw)
    seconds: dict[str, list[float]] = {title: [] for title in contestants}
    for _ in range(options.repeats):
        for title, (_, n, draw) in contestants.items():
            start = time.perf_counter()
            draw(n)
            seconds[title].append((time.perf_counter() - start) * options.n / n)
    medians = {title: statistics.median(times) for title, times in seconds.items()}
    flow = medians[OURS[0]]
    rows = [
        [
            title,
            f"{contestants[title][0]:,}",
            f"{median:.1f} s",
            f"{min(seconds[title]):.1f} to {max(seconds[title]):.1f} s",
            f"{median / flow:.2f}",
        ]
        for title, median in medians.items()
    ]
    print(f"{machine()}, {cores(torch.get_num_threads())}, torch {torch.__version__}; batches of {BATCH}\n")
    head = ["", "weights", f"{options.n:,} images", "range", "in `flow`'s time"]
    print(keep("sampling-speed", head, rows, n=options.n))


if __name__ == "__main__":
    main()
