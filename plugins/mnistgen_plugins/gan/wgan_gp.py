"""WGAN-GP: a critic whose loss measures a distance, class-conditional by projection.

Gulrajani et al., "Improved Training of Wasserstein GANs" (2017), https://arxiv.org/abs/1704.00028. The critic D is held
near slope 1 on the lines between real and generated images, so that its loss estimates the Wasserstein distance
between the two; x' = u x + (1 - u) G(z), u ~ U(0, 1), lambda the weight of the penalty:

    L_D = E D(G(z)) - E D(x)  +  lambda E (|grad_x' D(x')| - 1)^2
    L_G = -E D(G(z))

The critic takes `critic_steps` steps for one of the generator, each on images of its own. `wasserstein` in the progress
line and in curves.png is the critic's estimate E D(x) - E D(G(z)): it falls as the samples get better, and where it
rises the training has failed. Networks without batch normalisation, whose gradient would not be one image's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from mnistgen import BaseConfig, Loss, Noise
from mnistgen.nn import ResidualDiscriminator, ResidualGenerator, score_and_gradient
from mnistgen_plugins.gan.base import GAN


@dataclass(frozen=True)
class WGANGPConfig(BaseConfig):
    """Hyperparameters of `WGANGP`."""

    epochs: float = 20.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    batch_size: int = 96
    """Images in a step, over all processes together: each of the critic's steps has its share of them."""
    lr: float = 1e-3
    """Peak learning rate of both networks."""
    ema_decay: float = 0.999
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    critic_steps: int = 3
    """Steps of the critic for one of the generator."""
    penalty: float = 10.0
    """Weight of the gradient penalty, lambda."""
    beta2: float = 0.9
    """Adam's decay of the squared gradients; that of the gradients is 0."""
    latent_dim: int = 64
    """Length of the code z."""
    width: int = 32
    """Channels at 14x14; there are twice as many at 7x7."""
    blocks: int = 1
    """Residual blocks of each network at each of 7x7 and 14x14."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("critic_steps", "latent_dim", "width", "blocks", least=1)
        self.require("penalty", least=0)
        self.require("beta2", least=0, below=1)


class WGANGP(GAN):
    """Wasserstein GAN with a gradient penalty, class-conditional by projection (Gulrajani et al. 2017)."""

    Config = WGANGPConfig
    config: WGANGPConfig

    def __init__(self, config: WGANGPConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.latent_shape = (config.latent_dim,)
        self.generator = ResidualGenerator(config.latent_dim, num_classes, config.width, config.blocks)
        self.critic = ResidualDiscriminator(num_classes, config.width, config.blocks)

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The critic's loss on each share of the images, then the generator's."""
        for real, labels in zip(x.chunk(self.config.critic_steps), y.chunk(self.config.critic_steps), strict=True):
            fake = self.generate(labels).detach()
            wasserstein = self.critic(real, labels).mean() - self.critic(fake, labels).mean()
            penalty = self.penalty(real, fake, labels)
            loss = -wasserstein + self.config.penalty * penalty
            yield Loss(loss, self.critic, {"wasserstein": wasserstein, "penalty": penalty})

        labels = y.chunk(self.config.critic_steps)[0]
        yield Loss(-self.critic(self.generate(labels), labels).mean(), self.generator)

    def penalty(self, real: Tensor, fake: Tensor, y: Tensor) -> Tensor:
        """E (|grad D(x', y)| - 1)^2 at a random point x' on the line between each pair of images."""
        between = torch.lerp(fake, real, torch.rand(len(y), 1, 1, 1, device=y.device))
        _, gradient = score_and_gradient(self.critic, between, y)
        norm: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        return (norm - 1).square().mean()

    def generate(self, y: Tensor) -> Tensor:
        """G(z, y) at a random z, (b,) -> (b, 1, 28, 28)."""
        images: Tensor = self.generator(torch.randn(len(y), self.config.latent_dim, device=y.device), y)
        return images

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        betas = (0.0, self.config.beta2)
        return {
            part: Adam(part.parameters(), self.config.lr, betas, fused=True) for part in (self.critic, self.generator)
        }

    def sample(self, y: Tensor, *, noise: Noise, truncation: float = 0.9) -> Tensor:
        """Sample with a little truncation by default: the outermost z give the digits that misread most."""
        return super().sample(y, noise=noise, truncation=truncation)
