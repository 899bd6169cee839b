"""DCGAN: the convolutional GAN that everyone knows, class-conditional by projection.

Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks" (2016),
https://arxiv.org/abs/1511.06434: strided convolutions, batch normalisation, Adam with beta_1 = 0.5, weights drawn from
N(0, 0.02^2). The losses are the non-saturating ones of Goodfellow et al. (2014), with f(t) = log(1 + e^t):

    L_D = E f(-D(x)) + E f(D(G(z)))  +  gamma / 2 E |grad_x D(x)|^2
    L_G = E f(-D(G(z)))

The last term, which is not the paper's, is the R1 penalty (Mescheder et al. 2018). Without it the discriminator wins in
the end, and the generator gives up the rarer ways to write a digit. It is taken each `r1_every` steps, with as much
more weight (Karras et al. 2020).

The class enters the generator beside z, and the discriminator by projection (Miyato & Koyama 2018). Real and generated
images go through the discriminator apart, each batch normalised by its own statistics: images that are too much like
each other stand out by those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from mnistgen import BaseConfig, Loss
from mnistgen.nn import ClassEmbedding, Projection, score_and_gradient
from mnistgen_plugins.gan.base import GAN

CLASS_DIM = 32  # of the generator's class embedding
SLOPE = 0.2  # of the leaky ReLU


@dataclass(frozen=True)
class DCGANConfig(BaseConfig):
    """Hyperparameters of `DCGAN`."""

    epochs: float = 15.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    batch_size: int = 64
    """Images in a step, over all processes together."""
    lr: float = 4e-4
    """Peak learning rate of both networks."""
    ema_decay: float = 0.999
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    beta1: float = 0.5
    """Adam's decay of the gradients."""
    gamma: float = 0.2
    """Weight of the R1 penalty; 0, as in the paper, takes none."""
    r1_every: int = 4
    """Steps for each that takes the penalty."""
    latent_dim: int = 64
    """Length of the code z."""
    width: int = 64
    """Channels at 14x14; there are twice as many at 7x7."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("latent_dim", "width", "r1_every", least=1)
        self.require("gamma", least=0)
        self.require("beta1", least=0, below=1)


class DCGAN(GAN):
    """Deep convolutional GAN with the non-saturating loss, class-conditional by projection (Radford et al. 2016)."""

    Config = DCGANConfig
    config: DCGANConfig
    count: Tensor

    def __init__(self, config: DCGANConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.latent_shape = (config.latent_dim,)
        self.generator = Generator(config.latent_dim, num_classes, config.width)
        self.discriminator = Discriminator(num_classes, config.width)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # steps so far

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The discriminator's loss, then the generator's against the new discriminator, with the same z."""
        fake = self.generator(torch.randn(len(y), self.config.latent_dim, device=x.device), y)

        real_score, penalty = self.real_score_and_penalty(x, y)
        fake_score = self.discriminator(fake.detach(), y)
        loss = F.softplus(-real_score).mean() + F.softplus(fake_score).mean() + penalty
        yield Loss(loss, self.discriminator, {"real": real_score.mean(), "fake": fake_score.mean()})

        yield Loss(F.softplus(-self.discriminator(fake, y)).mean(), self.generator)

    def real_score_and_penalty(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """D(x, y), (b,), and r1_every gamma / 2 E |grad_x D|^2 in the steps that take it, else 0."""
        due = self.config.gamma > 0 and int(self.count) % self.config.r1_every == 0
        if self.training:
            self.count += 1
        if not due:
            return self.discriminator(x, y), x.new_zeros(())
        score, gradient = score_and_gradient(self.discriminator, x, y)
        return score, self.config.r1_every * self.config.gamma / 2 * gradient.square().sum((1, 2, 3)).mean()

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        betas = (self.config.beta1, 0.999)
        return {
            part: Adam(part.parameters(), self.config.lr, betas, fused=True)
            for part in (self.discriminator, self.generator)
        }


class Generator(nn.Module):
    """G(z, y): a 7x7 map, and two transposed convolutions that double it."""

    def __init__(self, latent_dim: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding = ClassEmbedding(num_classes, CLASS_DIM)
        self.seed = nn.Linear(latent_dim + CLASS_DIM, 2 * width * 7 * 7, bias=False)
        self.norm7 = nn.BatchNorm2d(2 * width)
        self.to14 = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False)
        self.norm14 = nn.BatchNorm2d(width)
        self.to28 = nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1)
        _initialise(self)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """(b, latent_dim), labels or class weights -> (b, 1, 28, 28) float32 in [-1, 1]."""
        h = self.seed(torch.cat([z, self.embedding(y)], 1))
        h = rearrange(h, "b (c h w) -> b c h w", h=7, w=7).contiguous(memory_format=torch.channels_last)
        h = self.to14(F.relu(self.norm7(h)))
        return torch.tanh(self.to28(F.relu(self.norm14(h))).float())


class Discriminator(nn.Module):
    """D(x, y): three strided convolutions and a projection."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.to14 = nn.Conv2d(1, width, 4, stride=2, padding=1)
        self.to7 = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False)
        self.norm7 = nn.BatchNorm2d(2 * width)
        self.to4 = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.norm4 = nn.BatchNorm2d(2 * width)
        _initialise(self)
        self.head = Projection(2 * width * 4 * 4, num_classes)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(b, 1, 28, 28), (b,) -> (b,) float32."""
        h = F.leaky_relu(self.to14(x), SLOPE)
        h = F.leaky_relu(self.norm7(self.to7(h)), SLOPE)
        h = F.leaky_relu(self.norm4(self.to4(h)), SLOPE)
        score: Tensor = self.head(rearrange(h, "b c h w -> b (c h w)").float(), y)
        return score


def _initialise(network: nn.Module) -> None:
    """The paper's N(0, 0.02^2)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
