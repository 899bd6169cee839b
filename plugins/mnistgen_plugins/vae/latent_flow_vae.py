"""A variational autoencoder whose prior is fitted to its codes: flow matching in 16 dimensions.

What a VAE with a standard normal prior draws is bad where no image is encoded. Fitting a density to the codes that
there are cures it (Dai & Wipf 2019, "Diagnosing and Enhancing VAE Models"; Ghosh et al. 2020, "From Variational to
Deterministic Autoencoders"), here by flow matching (Lipman et al. 2023), as latent diffusion does it with larger
codes. Each step minimises two losses, the second for the prior alone, on codes z ~ q(z | x, y) that it cannot change:

    -log p(x | z, y) + beta KL(q(z | x, y) || N(0, I))                          a VAE with a small beta: sharp images
    E |v(z_t, t, y) - (z - u)|^2,  z_t = (1 - t) u + t z,  u ~ N(0, I), t ~ U(0, 1)

A sample is the image of z = u + int_0^1 v dt. `encode` gives u, by the same integral backwards, and `decode` takes u,
so that to the outside the code is standard normal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from mnistgen import BaseConfig, GenerativeModel, Loss, Noise, UsageError
from mnistgen.model import HasLatents
from mnistgen.nn import LIKELIHOODS, ClassEmbedding, ImageDecoder, ImageEncoder, LikelihoodName

CLASS_DIM = 64  # of the class embeddings
FREQUENCIES = 16  # of the time embedding


@dataclass(frozen=True)
class LatentFlowVAEConfig(BaseConfig):
    """Hyperparameters of `LatentFlowVAE`."""

    epochs: float = 15.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    batch_size: int = 64
    """Images in a step, over all processes together."""
    lr: float = 4e-3
    """Peak learning rate of the autoencoder; that of the prior is half of it."""
    ema_decay: float = 0.998
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    clip_norm: float = 1.0
    """Largest gradient norm of a loss; 0 does not clip."""
    likelihood: LikelihoodName = "zero_inflated"
    """Distribution of a pixel given the code."""
    beta: float = 0.3
    """Weight of the KL: small, for sharp images; it is the prior's work to know where the codes are."""
    latent_dim: int = 16
    """Length of the code."""
    width: int = 32
    """Channels at 14x14; there are three times as many at 7x7."""
    blocks: int = 1
    """Residual blocks of the decoder at each of 7x7 and 14x14."""
    prior_width: int = 256
    """Hidden units of the prior's network."""
    prior_blocks: int = 3
    """Residual blocks of the prior's network."""
    prior_draws: int = 8
    """Times t at which the prior sees each code in a step; they cost next to nothing beside the convolutions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("latent_dim", "width", "blocks", "prior_width", "prior_blocks", "prior_draws", least=1)
        self.require("beta", least=0)


class LatentFlowVAE(GenerativeModel, HasLatents):
    """Class-conditional VAE with a flow-matching prior fitted to its codes (Ghosh et al. 2020; Lipman et al. 2023)."""

    Config = LatentFlowVAEConfig
    config: LatentFlowVAEConfig
    family = "vae"
    conditional = True

    def __init__(self, config: LatentFlowVAEConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.latent_shape = (config.latent_dim,)
        self.autoencoder = Autoencoder(config, num_classes)
        self.prior = Velocity(config.latent_dim, config.prior_width, config.prior_blocks, num_classes)

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The autoencoder's loss in nats an image, then the prior's in squared distance a code."""
        z, reconstruction, kl = self.autoencoder.terms(x, y)
        reconstruction, kl = reconstruction.mean(), kl.mean()
        yield Loss(
            reconstruction + self.config.beta * kl, self.autoencoder, {"reconstruction": reconstruction, "kl": kl}
        )

        z = z.detach().repeat_interleave(self.config.prior_draws, 0)
        y = y.repeat_interleave(self.config.prior_draws, 0)
        u, t = torch.randn_like(z), torch.rand_like(z[:, :1])
        error = self.prior(torch.lerp(u, z, t), t, y) - (z - u)
        yield Loss(error.square().sum(1).mean(), self.prior)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        decay = self.config.weight_decay
        return {
            self.autoencoder: AdamW(self.autoencoder.parameters(), self.config.lr, weight_decay=decay, fused=True),
            self.prior: AdamW(self.prior.parameters(), self.config.lr / 2, weight_decay=decay, fused=True),
        }

    def validation_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of both losses."""
        return torch.stack([loss.value for loss in self.losses(x, y)]).sum()

    def sample(self, y: Tensor, *, noise: Noise, temperature: float = 1.0, steps: int = 16) -> Tensor:
        """The image of a code from the prior, which a flow leads to from a standard normal u.

        Args:
            temperature: Factor on u; below 1 for safer and more alike images.
            steps: Midpoint steps of the flow; more are slower and more exact.
        """
        u = temperature * noise.normal(*self.latent_shape)
        return self.autoencoder.image(integrate(self.prior, u, y, steps=steps), y)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """u of the posterior's mean, the point from which the flow leads there, (b, latent_dim)."""
        mean, _ = self.autoencoder.posterior(x, y)
        return integrate(self.prior, mean, y, steps=32, backwards=True)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The image where the flow leads from u, the code that `encode` gives and that is called z outside."""
        return self.autoencoder.image(integrate(self.prior, z, y, steps=32), y)


class Autoencoder(nn.Module):
    """q(z | x, y) and p(x | z, y)."""

    def __init__(self, config: LatentFlowVAEConfig, num_classes: int) -> None:
        super().__init__()
        self.pixels = LIKELIHOODS[config.likelihood]()
        self.embedding = ClassEmbedding(num_classes, CLASS_DIM)
        self.encoder = ImageEncoder(config.latent_dim, config.width, CLASS_DIM)
        self.decoder = ImageDecoder(config.latent_dim, config.width, config.blocks, self.pixels.channels, CLASS_DIM)

    def terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z ~ q(z | x, y), (b, latent_dim), -log p(x | z, y) and KL(q || N(0, I)), (b,) nats each."""
        mean, log_std = self.posterior(x, y)
        z = mean + log_std.exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)
        return z, -self.pixels.log_prob(self.decoder(z, self.embedding(y)).float(), x), kl

    def posterior(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z | x, y), (b, latent_dim) each."""
        mean, log_std = self.encoder(x, self.embedding(y))
        return mean, log_std

    def image(self, z: Tensor, y: Tensor) -> Tensor:
        """(b, latent_dim), labels or class weights -> (b, 1, 28, 28) in [-1, 1]."""
        return self.pixels.image(self.decoder(z, self.embedding(y)).float())


class Velocity(nn.Module):
    """v(z_t, t, y): residual blocks of two linear layers, each told the time and the class."""

    frequencies: Tensor

    def __init__(self, dim: int, width: int, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = ClassEmbedding(num_classes, CLASS_DIM)
        self.condition = nn.Linear(2 * FREQUENCIES + CLASS_DIM, width)
        self.into = nn.Linear(dim, width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.out = nn.Linear(width, dim)
        for layer in (*self.second, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("frequencies", torch.arange(FREQUENCIES) * torch.pi / 2, persistent=False)

    def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """(b, dim), (b, 1) in [0, 1], labels or class weights -> (b, dim) float32."""
        with torch.autocast(z.device.type, enabled=False):  # a field that is followed there and back
            angles = t * self.frequencies
            condition = self.condition(torch.cat([angles.cos(), angles.sin(), self.embedding(y)], 1))
            h = self.into(z)
            for first, second in zip(self.first, self.second, strict=True):
                h = h + second(F.silu(first(F.silu(h)) + condition))
            velocity: Tensor = self.out(F.silu(h))
        return velocity


def integrate(velocity: nn.Module, z: Tensor, y: Tensor, *, steps: int, backwards: bool = False) -> Tensor:
    """Follow dz/dt = v(z, t, y) from t = 0 to 1, or back, by `steps` midpoint steps: (b, dim) -> (b, dim)."""
    if steps < 1:
        raise UsageError(f"steps is {steps}; it must be at least 1.")
    h = (-1 if backwards else 1) / steps
    for step in range(steps):
        t = torch.full_like(z[:, :1], (1.0 if backwards else 0.0) + step * h)
        middle = z + h / 2 * velocity(z, t, y)
        z = z + h * velocity(middle, t + h / 2, y)
    return z
