"""torchcfm 1.0.7 and diffusers 0.42.1 as contestants of `peers.py`: what each is, how it is trained and sampled."""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from mnistgen_plugins.diffusion.solvers import heun, last
from torch import Tensor, nn

from mnistgen import load_data
from mnistgen.data import Dataset, to_uint8
from mnistgen.scoring import class_counts

BATCH = 128  # of torchcfm's example; of training, of both
SAMPLED = 250  # images at a time
HEUN_STEPS = 16  # 31 evaluations
DDIM_STEPS = 50


class Sampled(NamedTuple):
    """One way to sample a peer."""

    title: str
    draw: Callable[[Tensor], Tensor]  # labels -> images in [-1, 1]


class Peer(NamedTuple):
    """A network, its loss, and how it is sampled."""

    network: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]  # images in [-1, 1], labels
    lr: float
    ways: list[Sampled]


def torchcfm_mnist() -> Peer:
    """The class-conditional MNIST example of torchcfm, examples/images/conditional_mnist.ipynb."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchcfm.models.unet import UNetModel

    network = UNetModel(dim=(1, 28, 28), num_channels=32, num_res_blocks=1, num_classes=10, class_cond=True)
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        t, x_t, u_t = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        error: Tensor = network(t, x_t, y) - u_t
        return error.square().mean()

    def draw(y: Tensor) -> Tensor:
        times = torch.linspace(0, 1, HEUN_STEPS + 1, dtype=torch.float64)
        return last(heun(lambda x, t: network(t, x, y), torch.randn(len(y), 1, 28, 28), times))

    return Peer(network, loss, 1e-3, [Sampled(f"Heun, {HEUN_STEPS} steps", draw)])


def diffusers_ddpm() -> Peer:
    """diffusers' UNet2DModel of 32, 64 and 64 channels with a class embedding, under its DDPM's noise."""
    from mnistgen.data.torchvision_shim import import_torchvision

    import_torchvision()  # which diffusers imports, and which is in want of a shim beside some builds of torch
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    network = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=10,
    )
    scheduler = DDPMScheduler(num_train_timesteps=1000)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        eps, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        error: Tensor = network(scheduler.add_noise(x, eps, t), t, class_labels=y).sample - eps
        return error.square().mean()

    def draw(y: Tensor, cls: type, steps: int) -> Tensor:
        sampler = cls.from_config(scheduler.config)  # type: ignore[attr-defined]
        sampler.set_timesteps(steps)
        x = torch.randn(len(y), 1, 28, 28)
        for t in sampler.timesteps:
            x = sampler.step(network(x, t, class_labels=y).sample, t, x).prev_sample
        return x

    return Peer(
        network,
        loss,
        1e-3,
        [
            Sampled(f"DDIMScheduler, {DDIM_STEPS} steps", lambda y: draw(y, DDIMScheduler, DDIM_STEPS)),
            Sampled(f"DDPMScheduler, {DDIM_STEPS} steps", lambda y: draw(y, DDPMScheduler, DDIM_STEPS)),
        ],
    )


PEERS = {"torchcfm": torchcfm_mnist, "diffusers": diffusers_ddpm}


class Result(NamedTuple):
    """What one way of sampling a trained peer gave."""

    title: str
    images: Tensor  # (n, 1, 28, 28) uint8
    facts: dict[str, Any]


def contend(name: str, options: argparse.Namespace, data: Dataset) -> Iterator[Result]:
    """Train one of the peers on labelled images for `options.budget` seconds, and draw in each of its ways."""
    torch.manual_seed(options.seed)
    peer = PEERS[name]()
    optimizer = torch.optim.Adam(peer.network.parameters(), lr=peer.lr)
    peer.network.train()
    begun, steps, targets = time.monotonic(), 0, data.require_labels()
    while (spent := time.monotonic() - begun) < options.budget:
        for group in optimizer.param_groups:
            group["lr"] = peer.lr * (1 - spent / options.budget)
        rows = torch.randint(0, len(data), (BATCH,))
        optimizer.zero_grad()
        peer.loss(data.images[rows].float() / 127.5 - 1, targets[rows]).backward()
        optimizer.step()
        steps += 1
    peer.network.eval()
    facts = {"steps": steps, "images": steps * BATCH, "trained": spent}
    facts |= {"weights": sum(parameter.numel() for parameter in peer.network.parameters())}
    counts = torch.tensor(class_counts(load_data("mnist", "test").require_labels(), options.n))
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    for way in peer.ways:
        torch.manual_seed(options.seed)
        start = time.perf_counter()
        with torch.no_grad():
            images = torch.cat([to_uint8(way.draw(some)) for some in labels.split(SAMPLED)])
        yield Result(way.title, images, facts | {"drawing": time.perf_counter() - start})
