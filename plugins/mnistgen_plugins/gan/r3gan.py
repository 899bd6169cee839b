"""R3GAN: a GAN without tricks, class-conditional by projection.

Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline" (2024), https://arxiv.org/abs/2501.05441. The
relativistic pairing loss, with zero-centred gradient penalties on real and on generated images, which together
converge locally; f(t) = log(1 + e^t), D the discriminator, G the generator, gamma the weight of the penalties:

    L_D = E f(D(G(z)) - D(x))  +  gamma / 2 (E |grad_x D(x)|^2 + E |grad_x D(G(z))|^2)        R1 and R2
    L_G = E f(D(x) - D(G(z)))

Each generated image is paired with a real one of its class. No normalisation, Adam with beta_1 = 0, gamma falling over
the first part of the training; residual networks whose blocks begin as the identity. The paper's grouped bottlenecks
are plain pairs of 3x3 convolutions here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from mnistgen import BaseConfig, Loss, Noise
from mnistgen.nn import ResidualDiscriminator, ResidualGenerator, score_and_gradient
from mnistgen_plugins.gan.base import GAN


@dataclass(frozen=True)
class R3GANConfig(BaseConfig):
    """Hyperparameters of `R3GAN`."""

    epochs: float = 14.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    batch_size: int = 64
    """Images in a step, over all processes together."""
    lr: float = 1e-3
    """Peak learning rate of both networks."""
    ema_decay: float = 0.999
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    beta2: float = 0.99
    """Adam's decay of the squared gradients; that of the gradients is 0."""
    gamma: float = 1.0
    """Weight of the gradient penalties when training begins."""
    gamma_end: float = 0.3
    """Weight of the gradient penalties after `gamma_steps`."""
    gamma_steps: int = 6000
    """Steps over which the weight of the penalties falls, by a half cosine."""
    latent_dim: int = 64
    """Length of the code z."""
    width: int = 32
    """Channels at 14x14; there are twice as many at 7x7."""
    blocks: int = 1
    """Residual blocks of each network at each of 7x7 and 14x14."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("latent_dim", "width", "blocks", least=1)
        self.require("gamma", "gamma_end", "gamma_steps", least=0)
        self.require("beta2", least=0, below=1)


class R3GAN(GAN):
    """GAN with the relativistic pairing loss and R1 and R2 penalties, class-conditional (Huang et al. 2024)."""

    Config = R3GANConfig
    config: R3GANConfig
    count: Tensor

    def __init__(self, config: R3GANConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.latent_shape = (config.latent_dim,)
        self.generator = ResidualGenerator(config.latent_dim, num_classes, config.width, config.blocks)
        self.discriminator = ResidualDiscriminator(num_classes, config.width, config.blocks)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # steps so far

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The discriminator's loss, then the generator's against the new discriminator, with the same z."""
        gamma = self.gamma()
        if self.training:
            self.count += 1
        z = torch.randn(len(y), self.config.latent_dim, device=x.device)
        fake = self.generator(z, y)

        real_score, real_gradient = score_and_gradient(self.discriminator, x, y)
        fake_score, fake_gradient = score_and_gradient(self.discriminator, fake, y)
        r1, r2 = (gradient.square().sum((1, 2, 3)).mean() for gradient in (real_gradient, fake_gradient))
        loss = F.softplus(fake_score - real_score).mean() + gamma / 2 * (r1 + r2)
        margin = (real_score - fake_score).mean()
        yield Loss(loss, self.discriminator, {"margin": margin, "r1": r1, "r2": r2})

        real_score = self.discriminator(x, y).detach()
        fake_score = self.discriminator(fake, y)
        yield Loss(F.softplus(real_score - fake_score).mean(), self.generator)

    def gamma(self) -> Tensor:
        """Anneal from `gamma` to `gamma_end` by a half cosine over `gamma_steps`."""
        progress = (self.count / max(1, self.config.gamma_steps)).clamp(max=1)
        share = (1 + torch.cos(torch.pi * progress)) / 2
        return self.config.gamma_end + (self.config.gamma - self.config.gamma_end) * share

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        betas = (0.0, self.config.beta2)
        return {
            part: Adam(part.parameters(), self.config.lr, betas, fused=True)
            for part in (self.discriminator, self.generator)
        }

    def sample(self, y: Tensor, *, noise: Noise, truncation: float = 0.95) -> Tensor:
        """Sample with a little truncation by default: the outermost z give the digits that misread most."""
        return super().sample(y, noise=noise, truncation=truncation)
