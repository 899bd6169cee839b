"""What diffusion and flow models have in common: a denoiser, the path it belongs to, and what follows from both."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mnistgen import BaseConfig, GenerativeModel, HasEditing, HasLatents, HasPath, Noise, UsageError
from mnistgen.nn import PixelSpace, UNet, computes_in_bfloat16
from mnistgen.solvers import Denoiser, Path, guide, inpaint, last

IMAGE = (1, 28, 28)
ODE_STEPS = 32  # where an image and its noise are to lead to each other


@dataclass(frozen=True)
class DiffusionConfig(BaseConfig):
    """Hyperparameters that all of them have."""

    epochs: float = 30.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    batch_size: int = 64
    """Images in a step, over all processes together."""
    lr: float = 2e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """How the learning rate falls to zero, after the warm-up."""
    ema_decay: float = 0.9995
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    clip_norm: float = 1.0
    """Largest gradient norm of a loss; 0 does not clip."""
    pixels: Literal["plain", "ranked"] = "ranked"
    """The space the network works in: [-1, 1], or with black apart and ink by rank; then centred and scaled."""
    label_dropout: float = 0.1
    """Share of the images whose class the network is not told in training, so that it can be guided by the class."""
    width: int = 64
    """Channels at 14x14; there are twice as many at 7x7."""
    blocks: int = 1
    """Residual blocks of the network at each resolution, on the way down and on the way up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("width", "blocks", least=1)
        self.require("label_dropout", least=0, below=1)


class Diffusion(GenerativeModel, HasPath, HasLatents, HasEditing):
    """A model of x_t = alpha(t) x + sigma(t) eps by its denoiser; `path` says what alpha and sigma are."""

    family = "diffusion"
    conditional = True
    latent_shape = IMAGE
    Config: ClassVar[type[BaseConfig]] = DiffusionConfig
    config: DiffusionConfig
    path: Path

    def __init__(self, config: DiffusionConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.pixels = PixelSpace(ranked=config.pixels == "ranked")
        self.network = UNet(num_classes, config.width, config.blocks)

    def prepare(self, images: Tensor) -> None:
        """Learn the space of pixels from the training images, (n, 1, 28, 28) uint8."""
        self.pixels.prepare(images)

    @abstractmethod
    def denoise(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """D(x_t, t, y) = E[x | x_t, y] in the space of pixels: (b, 1, 28, 28), (b,), labels -> (b, 1, 28, 28).

        y may be class weights, (b, classes); weights that are all zero stand for no class.
        """

    def denoiser(
        self, y: Tensor, *, guidance_scale: float = 1.0, start: float = -math.inf, end: float = math.inf
    ) -> Denoiser:
        """D(x_t, t) of given labels, or class weights, guided by the class while t is in [start, end]."""

        def main(x_t: Tensor, t: Tensor) -> Tensor:
            return self.denoise(x_t, t, y)

        if guidance_scale == 1:
            return main
        no_class = torch.zeros(len(y), self.num_classes, device=y.device)
        return guide(main, lambda x_t, t: self.denoise(x_t, t, no_class), guidance_scale, (start, end))

    def some_labels(self, y: Tensor) -> Tensor:
        """The labels as class weights, (b, classes); in training mode, a share of them is replaced by no class."""
        weights = F.one_hot(y, self.num_classes).float()
        if self.training:
            weights = weights * (torch.rand(len(y), 1, device=y.device) >= self.config.label_dropout)
        return weights

    def start(self, noise: Noise) -> Tensor:
        """x_t where the path begins, (b, 1, 28, 28)."""
        return self.scaled(noise.normal(*IMAGE))

    def scaled(self, z: Tensor) -> Tensor:
        """Standard normal noise, as large as the path has it at its beginning."""
        sigma = self.path.sigma(torch.tensor([self.path.noisy], dtype=torch.float64)).item()
        return (sigma * z).contiguous(memory_format=torch.channels_last)

    @abstractmethod
    def times(self, steps: int, start: float = 0.0) -> Tensor:
        """(steps + 1,) times from the part `start` of the way, 0 where it begins in noise, to the data."""

    @abstractmethod
    def follow(self, denoiser: Denoiser, state: Tensor, times: Tensor) -> Iterator[Tensor]:
        """The states of the deterministic way along `times`, in either direction."""

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The image to which the ODE leads from z."""
        return self.pixels.decode(last(self.follow(self.denoiser(y), self.scaled(z), self.times(ODE_STEPS))))

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """The noise from which the ODE leads to x."""
        times = self.times(ODE_STEPS).flip(0)
        return last(self.follow(self.denoiser(y), self.pixels.encode(x), times)) / self.scaled(torch.ones(1))

    def inpaint(self, x: Tensor, known: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """The ODE of a denoiser that is told the data where they are known."""
        denoiser = inpaint(self.denoiser(y), self.pixels.encode(x), known)
        images = self.pixels.decode(last(self.follow(denoiser, self.start(noise), self.times(ODE_STEPS))))
        return torch.where(known, x, images)

    def vary(self, x: Tensor, y: Tensor, *, noise: Noise, strength: float = 0.5) -> Tensor:
        """Noise is added as it is at the part 1 - strength of the way, and the ODE leads back (Meng et al. 2022)."""
        if not 0 <= strength <= 1:
            raise UsageError(f"strength is {strength}; it must be from 0 to 1.")
        if strength == 0:
            return x
        times = self.times(ODE_STEPS, 1 - strength)
        eps = noise.normal(*IMAGE)
        state = self.path.at(self.pixels.encode(x), eps, times[:1].to(eps).expand(len(x)))
        return self.pixels.decode(last(self.follow(self.denoiser(y), state, times)))

    def images(self, states: Iterator[Tensor]) -> Iterator[Tensor]:
        """States of a solver as images in [-1, 1]."""
        for state in states:
            yield self.pixels.decode(state)

    def evaluate(self, *inputs: Tensor) -> Tensor:
        """The network: in bfloat16 where that is faster and nothing is being trained."""
        if self.training or torch.is_grad_enabled():
            out: Tensor = self.network(*inputs)
            return out
        device = inputs[0].device
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16(device)):
            out = self.network(*inputs)
        return out.float()
