"""An importance weighted autoencoder, class-conditional, of stochastically binarised pixels.

Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders" (2016): the networks of a VAE, trained on a bound
that is tighter the more codes are drawn. For z_1..z_k ~ q(z | b, y), k = `importance_samples`, and z ~ N(0, I),

    log p(b | y)  >=  E log (1/k) sum_i w_i,      w_i = p(b | z_i) p(z_i) / q(z_i | b, y)

whose gradient is sum_i w~_i grad log w_i, where w~ = w / sum w. With k = 1 it is the ELBO, and the model the VAE of
Kingma & Welling, "Auto-Encoding Variational Bayes" (2014). `dreg` replaces the encoder's gradient by the doubly
reparameterised one (Tucker et al. 2019), which has the same mean and, as k grows, less noise.

The pixels are binary, b ~ Bernoulli((x + 1) / 2), resampled in each step. `log_prob` of a grey image puts its values v
where binary pixels b stand. Since log p is convex in b, this is a lower bound on the mean of log p(b | y) over
b ~ Bernoulli(v); where x is already black and white, b = v. What is sampled and decoded is the mean of p(b | z, y),
the probability of white, shown as a grey image.

Test images binarised once (seed 0), 5,000 importance samples: `mnistgen train iwae --importance-samples 1 --out
vae-binarised` (seed 0, as the shipped checkpoint), then `python benchmarks/binarised_likelihood.py --checkpoint
iwae-mnist vae-binarised`; nats an image, with the standard error over images. The last column bounds what compares with
models that do not know the class, where the literature has 86.8 to 89.8 (VAE) and 84.8 (IWAE-50; 86.8 repeated).

                -ELBO         -log p(b | y)   -log p(b), at most
    k = 1       89.8 +- 0.3    87.0 +- 0.3          89.3
    k = 10      88.1 +- 0.3    82.0 +- 0.2          84.3
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mnistgen import BaseConfig, GenerativeModel, Loss, Noise
from mnistgen.model import HasLatents, HasLikelihood, normal_like
from mnistgen.nn import ClassEmbedding, GreyLevels

PIXELS = 28 * 28
CODES = 4096  # decoded at once by `log_prob`, so that its memory does not grow with the draws


@dataclass(frozen=True)
class IWAEConfig(BaseConfig):
    """Hyperparameters of `IWAE`."""

    epochs: float = 100.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    batch_size: int = 128
    """Images in a step, over all processes together."""
    lr: float = 3e-3
    """Peak learning rate."""
    ema_decay: float = 0.999
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    importance_samples: int = 10
    """Codes drawn for each image; 1 is the VAE, more give a tighter bound and take as much longer to decode."""
    dreg: bool = False
    """Train the encoder by the doubly reparameterised gradient: the same on average, with less noise."""
    latent_dim: int = 50
    """Length of the code."""
    hidden: int = 400
    """Units in each of the two hidden layers of encoder and decoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("importance_samples", "latent_dim", "hidden", least=1)


class IWAE(GenerativeModel, HasLikelihood, HasLatents):
    """Importance weighted autoencoder of binarised pixels, class-conditional (Burda et al. 2016)."""

    Config = IWAEConfig
    config: IWAEConfig
    family = "vae"
    conditional = True
    likelihood = "lower bound"
    likelihood_of = "stochastically binarised pixels"
    likelihood_precision = "any"  # of the terms of a likelihood, all are float32, and the benchmark compares the rest

    def __init__(self, config: IWAEConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.latent_shape = (config.latent_dim,)
        self.encoder = ConditionalMLP(PIXELS, 2 * config.latent_dim, config.hidden, num_classes)
        self.decoder = ConditionalMLP(config.latent_dim, PIXELS, config.hidden, num_classes)
        self.levels = GreyLevels()

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The negative bound in nats an image; logs log q(z | b, y) - log p(z), and the effective sample size of w~."""
        v = probabilities(x)
        b = (torch.rand_like(v) < v).to(v.dtype)
        mean, log_std = self.posterior(b, y)
        eps = torch.randn(len(x), self.config.importance_samples, self.config.latent_dim, device=x.device)
        log_likelihood, log_ratio = self.log_weight_terms(b, y, mean, log_std, eps, dreg=self.config.dreg)
        log_w = log_likelihood - log_ratio  # (b, k)
        bound = log_w.logsumexp(1) - math.log(log_w.shape[1])
        ess = 1 / log_w.detach().softmax(1).square().sum(1)  # from 1, where one code has all the weight, to k
        yield Loss(-bound.mean(), self, {"kl": log_ratio.detach().mean(), "ess": ess.mean()})

    def posterior(self, v: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z | v, y): (b, 784) in [0, 1], (b,) -> (b, latent_dim) float32 each."""
        mean, log_std = self.encoder(v, y).float().chunk(2, dim=-1)
        return mean, log_std.clamp(-7, 2)

    def log_weight_terms(
        self, v: Tensor, y: Tensor, mean: Tensor, log_std: Tensor, eps: Tensor, *, dreg: bool = False
    ) -> tuple[Tensor, Tensor]:
        """log p(v | z, y) and log q(z | v, y) - log p(z) at z = mean + std * eps; log w is their difference.

        (b, 784) in [0, 1], (b,), (b, latent_dim) twice, (b, k, latent_dim) -> (b, k) nats each.
        """
        z = mean[:, None] + log_std.exp()[:, None] * eps
        log_likelihood = bernoulli_log_prob(self.decoder(z, y), v[:, None])
        log_prior = log_normal(z)
        if not dreg:
            return log_likelihood, log_normal(eps) - log_std.sum(1)[:, None] - log_prior

        # Tucker et al. 2019: the encoder's gradient goes through z alone, and that of z_i is weighted by w~_i twice,
        # once by the logarithm of the mean weight and once here.
        mean, log_std = mean.detach()[:, None], log_std.detach()[:, None]
        log_ratio = log_normal((z - mean) * (-log_std).exp()) - log_std.sum(2) - log_prior
        if z.requires_grad:
            normalised = (log_likelihood - log_ratio).detach().softmax(1)[:, :, None]
            z.register_hook(lambda gradient: normalised * gradient)
        return log_likelihood, log_ratio

    def sample(self, y: Tensor, *, noise: Noise, temperature: float = 1.0) -> Tensor:
        """The mean of p(b | z, y) for a z from the prior, a grey image.

        Args:
            temperature: Factor on z; below 1 for safer and more alike images.
        """
        return self.decode(temperature * noise.normal(*self.latent_shape), y)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """The posterior's mean, (b, latent_dim)."""
        mean, _ = self.posterior(probabilities(x), y)
        return mean

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The mean of p(b | z, y), the probability of white, as a grey image; the more probable, the lighter."""
        h = self.decoder(z, y).float()
        return self.levels.decode(rearrange(2 * h.sigmoid() - 1, "b (c h w) -> b c h w", c=1, h=28))

    def log_prob(self, x: Tensor, y: Tensor, *, noise: Noise | None = None, importance_samples: int = 1) -> Tensor:
        """An estimate, on average below log p(x | y), from `importance_samples` draws of q; one gives the ELBO."""
        v = probabilities(x)
        mean, log_std = self.posterior(v, y)
        parts = []
        for draws in torch.arange(importance_samples).split(max(1, CODES // max(1, len(x)))):
            eps = normal_like(mean.new_empty(len(x), len(draws), self.config.latent_dim), noise)
            log_likelihood, log_ratio = self.log_weight_terms(v, y, mean, log_std, eps)
            parts.append((log_likelihood - log_ratio).logsumexp(1))
        return torch.stack(parts).logsumexp(0) - math.log(importance_samples)


class ConditionalMLP(nn.Module):
    """W_3 f(W_2 f(W_1 x + E y) + b_2) + b_3, f = SiLU: two hidden layers, the first one shifted by the class."""

    def __init__(self, inputs: int, outputs: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = ClassEmbedding(num_classes, hidden)
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(b, inputs) or (b, k, inputs), (b,) labels or (b, classes) weights -> (b, outputs) or (b, k, outputs)."""
        h = self.first(x)
        e = self.embedding(y).to(h.dtype)  # or the sum, and all after it, would be float32 under autocast
        h = F.silu(h + (e if x.ndim == 2 else e[:, None]))
        out: Tensor = self.out(F.silu(self.second(h)))
        return out


def probabilities(x: Tensor) -> Tensor:
    """Images as probabilities of white, (b, 1, 28, 28) in [-1, 1] -> (b, 784) in [0, 1]."""
    return x.flatten(1).add(1).div_(2)


def bernoulli_log_prob(h: Tensor, v: Tensor) -> Tensor:
    """sum_d v_d h_d - log(1 + e^h_d), in float32: logits (b, k, 784), (b, 1, 784) in [0, 1] -> (b, k).

    The sum of the terms takes the place of log(1 + e^h), the only new tensor of that size.
    """
    h = h.float()
    return F.softplus(h).addcmul_(h, v, value=-1).sum(-1).neg()


def log_normal(u: Tensor) -> Tensor:
    """log N(u; 0, I), (..., dim) -> (...)."""
    return -0.5 * (u.square().sum(-1) + u.shape[-1] * math.log(2 * math.pi))
