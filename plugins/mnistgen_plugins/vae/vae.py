"""A convolutional, class-conditional variational autoencoder with a learned prior.

Kingma & Welling, "Auto-Encoding Variational Bayes" (2014); the condition on the class is that of Sohn et al. (2015).
The loss is the negative ELBO in nats an image, for z ~ q(z | x, y):

    -log p(x | z, y)  +  beta * [log q(z | x, y) - log p(z | y)]        (beta rises from 0 over the KL warm-up)

The prior is a normalizing flow that is trained with the rest (Chen et al., "Variational Lossy Autoencoder", 2017):
z = f(u; y), u ~ N(0, I). With N(0, I) for z itself, much of what is sampled is where no image is encoded. `encode`
gives u and `decode` takes u, so that to the outside the code is standard normal. What is sampled is the image that
the likelihood says is the one to show, by default the mean of p(x | z, y).

`log_prob` is the ELBO (beta = 1), a lower bound. By default it is of 8-bit pixels: bits/dim = -nats / (784 ln 2).

Likelihoods compared, at one network, one seed (0), 1,000 steps of 64 images and beta 1, by
`python benchmarks/vae_likelihoods.py --steps 1000` on AMD EPYC cores, bf16. Frechet: in the features of the small
classifier trained there, n = 5,000 samples against the validation images, divided by the same distance of as many
training images (0.20). Label: how often that classifier (99.28 % right) reads the label asked for.

    likelihood             Frechet / floor   label    ELBO, nats
    gaussian                    30.9        95.2 %       667    density
    logistic (the mode)         37.4        93.2 %      -826    8-bit pixels, 1.52 bits/dim
    zero_inflated               39.8        95.8 %      -777    8-bit pixels, 1.43 bits/dim
    categorical                 44.0        95.2 %     -2043    8-bit pixels, 3.76 bits/dim
    bernoulli                   72.3        95.2 %      -102    stochastically binarised pixels
    continuous_bernoulli       557          11.6 %     -3149    density; fails at --lr 1e-3 too (504)

Trained for about the default length, outside that command, the first and the third tied within the noise of one seed.
The default is zero_inflated because its bound is one of whole-numbered pixels and it can put mass on exact black, as
81 % of real pixels are. `mnistgen train vae` takes four minutes on two cores.

The shipped checkpoint by `mnistgen score vae-mnist` (n = 10,000, seed 0, evaluator A a8d6848f17320e31): FID 0.967, 5.6
times the floor, and 23.2 times in the earlier layer; label agreement 98.54 %, of real digits 99.64 %.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mnistgen import BaseConfig, GenerativeModel, HasLatents, HasLikelihood, Loss, Noise, UsageError
from mnistgen.nn import ClassEmbedding, ResidualBlock

CLASS_DIM = 64  # of the class embedding
CODE_DIM = 128  # of the vector, made of z and y, that steers the decoder
GREY_LEVELS = 32  # of the categorical likelihood


@dataclass(frozen=True)
class VAEConfig(BaseConfig):
    """Hyperparameters of `VAE`."""

    epochs: float = 9.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    batch_size: int = 64
    """Images in a step, over all processes together."""
    lr: float = 4e-3
    """Peak learning rate."""
    ema_decay: float = 0.998
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    clip_norm: float = 1.0
    """Largest gradient norm of a loss; 0 does not clip."""
    likelihood: Literal["zero_inflated", "bernoulli", "continuous_bernoulli", "gaussian", "logistic", "categorical"] = (
        "zero_inflated"
    )
    """Distribution of a pixel given the code; the docstring of the module compares them."""
    beta: float = 1.0
    """Weight of the KL in the training loss; below 1 for sharper images, above 1 for fewer, broader latents."""
    kl_warmup_steps: int = 500
    """Steps over which the weight of the KL rises linearly from 0 to beta."""
    latent_dim: int = 16
    """Length of the code; 2 gives a manifold that can be drawn."""
    prior_layers: int = 6
    """Coupling layers of the learned prior; 0 keeps the standard normal."""
    width: int = 32
    """Channels at 14x14; there are three times as many at 7x7."""
    blocks: int = 1
    """Residual blocks of the decoder at each of 7x7 and 14x14."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("latent_dim", "width", "blocks"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("beta", "kl_warmup_steps", "prior_layers"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be zero or more.")


class VAE(GenerativeModel, HasLikelihood, HasLatents):
    """Convolutional, class-conditional VAE with a learned prior (Kingma & Welling 2014; Sohn et al. 2015)."""

    Config = VAEConfig
    config: VAEConfig
    family = "vae"
    conditional = True
    likelihood = "lower bound"
    likelihood_of = "8-bit pixels"  # an instance says what its own likelihood is of
    kl_steps: Tensor

    def __init__(self, config: VAEConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.latent_shape = (config.latent_dim,)
        self.pixels = LIKELIHOODS[config.likelihood]()
        self.likelihood_of = self.pixels.of
        self.embedding = ClassEmbedding(num_classes, CLASS_DIM)
        self.encoder = Encoder(config.latent_dim, config.width)
        self.prior = CouplingFlow(config.latent_dim, CLASS_DIM, config.prior_layers)
        self.decoder = Decoder(config.latent_dim, config.width, config.blocks, self.pixels.channels)
        self.register_buffer("kl_steps", torch.zeros((), dtype=torch.int64))

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The negative ELBO, in nats an image; in training mode its KL is weighted by beta and the warm-up."""
        reconstruction, kl = (term.mean() for term in self.elbo_terms(x, y))
        loss = reconstruction + self.kl_weight() * kl if self.training else reconstruction + kl
        if self.training:
            self.kl_steps += 1
        yield Loss(loss, self, {"reconstruction": reconstruction.detach(), "kl": kl.detach()})

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """-log p(x | z, y) and log q(z | x, y) - log p(z | y) at one draw of z, (b,) nats each; -ELBO is their sum."""
        e = self.embedding(y)

        # q(z | x, y) = N(z; mean, std^2), drawn as z = mean + std * eps
        mean, log_std = self.encoder(x, e)  # (b, latent_dim) each
        eps = torch.randn_like(mean)
        z = mean + log_std.exp() * eps
        log_q = log_normal(eps) - log_std.sum(1)

        # p(z | y) = N(u; 0, I) |det du/dz|, where z = f(u; y)
        u, log_det = self.prior.inverse(z, e)
        log_prior = log_normal(u) + log_det

        # p(x | z, y), one factor for each pixel
        log_likelihood = self.pixels.log_prob(self.decoder(z, e).float(), x)
        return -log_likelihood, log_q - log_prior

    def kl_weight(self) -> Tensor:
        """beta * min(1, step / kl_warmup_steps), where a step is one in training mode."""
        return self.config.beta * (self.kl_steps / max(1, self.config.kl_warmup_steps)).clamp(max=1)

    def sample(self, y: Tensor, *, noise: Noise, temperature: float = 1.0) -> Tensor:
        """The image of a z from the prior; `temperature` scales the prior's standard normal u."""
        return self.decode(temperature * noise.normal(*self.latent_shape), y)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """u of the posterior's mean, the code in which the prior is standard normal, (b, latent_dim)."""
        e = self.embedding(y)
        mean, _ = self.encoder(x, e)
        u, _ = self.prior.inverse(mean, e)
        return u

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The image of z = f(u; y), where u is the code that `encode` gives and that is called z outside."""
        e = self.embedding(y)
        return self.pixels.image(self.decoder(self.prior(z, e), e).float())

    def log_prob(self, x: Tensor, y: Tensor, *, importance_samples: int = 1) -> Tensor:
        """An estimate, below log p(x | y) on average, from draws z_1..z_k of q: log (1/k) sum_i p(x, z_i) / q(z_i | x).

        One sample gives the ELBO; more tighten the bound (Burda et al. 2016).
        """
        draws = [-torch.add(*self.elbo_terms(x, y)) for _ in range(importance_samples)]
        return torch.stack(draws).logsumexp(0) - math.log(importance_samples)


class Encoder(nn.Module):
    """The mean and log standard deviation of q(z | x, y): two strided convolutions and a linear layer.

    The decoder gets most of the time: a residual block at each size made a step a third longer and, in the same
    time, the samples no better.
    """

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),  # (b, width, 14, 14)
            nn.SiLU(),
            nn.Conv2d(width, 3 * width, 4, stride=2, padding=1),  # (b, 3 width, 7, 7)
            nn.SiLU(),
            nn.Conv2d(3 * width, 32, 1),  # (b, 32, 7, 7)
            nn.SiLU(),
        )
        self.out = nn.Linear(32 * 7 * 7 + CLASS_DIM, 2 * latent_dim)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 1, 28, 28), (b, class) -> (b, latent_dim) float32 each."""
        h = rearrange(self.convs(x), "b c h w -> b (c h w)")
        mean, log_std = self.out(torch.cat([h, e], dim=1)).float().chunk(2, dim=1)
        return mean, log_std.clamp(-7, 2)


class Decoder(nn.Module):
    """The parameters of p(x | z, y): z and y make one vector, which seeds the 7x7 map and steers every block."""

    def __init__(self, latent_dim: int, width: int, blocks: int, channels: int) -> None:
        super().__init__()
        self.code = nn.Sequential(
            nn.Linear(latent_dim + CLASS_DIM, CODE_DIM), nn.SiLU(), nn.Linear(CODE_DIM, CODE_DIM), nn.SiLU()
        )
        self.seed = nn.Linear(CODE_DIM, 32 * 7 * 7)
        self.expand = nn.Conv2d(32, 3 * width, 1)
        self.blocks7 = nn.ModuleList(ResidualBlock(3 * width, CODE_DIM) for _ in range(blocks))
        self.to14 = nn.Conv2d(3 * width, 4 * width, 1)
        self.blocks14 = nn.ModuleList(ResidualBlock(width, CODE_DIM) for _ in range(blocks))
        self.to28 = nn.Conv2d(width, 4 * 16, 3, padding=1)
        self.out = nn.Conv2d(16, channels, 3, padding=1)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """(b, latent_dim), (b, class) -> (b, channels, 28, 28)."""
        code = self.code(torch.cat([z, e], dim=1))
        h = rearrange(self.seed(code), "b (c h w) -> b c h w", h=7, w=7)
        h = self.expand(F.silu(h.contiguous(memory_format=torch.channels_last)))
        for block in self.blocks7:
            h = block(h, code)
        h = F.pixel_shuffle(self.to14(F.silu(h)), 2)  # (b, width, 14, 14)
        for block in self.blocks14:
            h = block(h, code)
        h = F.pixel_shuffle(self.to28(F.silu(h)), 2)  # (b, 16, 28, 28)
        return self.out(F.silu(h))  # type: ignore[no-any-return]


class CouplingFlow(nn.Module):
    """An invertible map z = f(u; y) of affine coupling layers (Dinh et al. 2017), the identity when it begins.

    A layer leaves one half of its input as it is, and scales and shifts the other by functions of the first.
    """

    def __init__(self, dim: int, embedding_dim: int, layers: int, hidden: int = 128) -> None:
        super().__init__()
        self.kept = dim // 2
        self.nets = nn.ModuleList()
        for _ in range(layers):
            out = nn.Linear(hidden, 2 * (dim - self.kept))
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)
            first, second = nn.Linear(self.kept + embedding_dim, hidden), nn.Linear(hidden, hidden)
            self.nets.append(nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), out))

    def forward(self, u: Tensor, e: Tensor) -> Tensor:
        """f(u; y): (b, dim), (b, class) -> (b, dim)."""
        for net in self.nets:
            kept, changed = u[:, : self.kept], u[:, self.kept :]
            log_scale, shift = self._affine(net, kept, e)
            u = torch.cat([kept, changed * log_scale.exp() + shift], dim=1).flip(1)  # the halves change places
        return u

    def inverse(self, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """u = f^-1(z; y) and log |det du/dz|: (b, dim), (b, class) -> (b, dim), (b,)."""
        log_det = z.new_zeros(len(z))
        for net in reversed(self.nets):
            z = z.flip(1)
            kept, changed = z[:, : self.kept], z[:, self.kept :]
            log_scale, shift = self._affine(net, kept, e)
            z = torch.cat([kept, (changed - shift) * (-log_scale).exp()], dim=1)
            log_det = log_det - log_scale.sum(1)
        return z, log_det

    def _affine(self, net: nn.Module, kept: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(kept.device.type, enabled=False):  # or the two directions differ by a rounding
            log_scale, shift = net(torch.cat([kept, e], dim=1)).chunk(2, dim=1)
        return 1.5 * torch.tanh(log_scale), shift


class Likelihood(nn.Module, ABC):
    """p(x | h) of an image, one factor for each pixel, given the decoder's output h, (b, channels, 28, 28)."""

    channels: int = 1
    of: str  # what data the nats are of

    @abstractmethod
    def log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        """log p(x | h) in nats: x (b, 1, 28, 28) in [-1, 1] -> (b,)."""

    @abstractmethod
    def image(self, h: Tensor) -> Tensor:
        """The image to show, (b, 1, 28, 28) in [-1, 1]: E[x | h] where the class does not say otherwise."""


class Bernoulli(Likelihood):
    """v log p + (1 - v) log (1 - p), v = (x + 1) / 2: the mean of log p(b) over binary pixels b ~ Bernoulli(v)."""

    of = "stochastically binarised pixels"

    def log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        return _per_image(-_cross_entropy(h, x))

    def image(self, h: Tensor) -> Tensor:
        return 2 * h.sigmoid() - 1


class ContinuousBernoulli(Likelihood):
    """C(h) p^v (1 - p)^(1 - v), a density of v in [0, 1]: C(h) = h / tanh(h / 2) (Loaiza-Ganem & Cunningham 2019)."""

    of = "grey values in [0, 1] (a density)"

    def log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        return _per_image(_log_normaliser(h) - _cross_entropy(h, x))

    def image(self, h: Tensor) -> Tensor:
        return 2 * _continuous_mean(h) - 1


class Gaussian(Likelihood):
    """N(v; h, sigma^2) with one learned sigma for all pixels (sigma-VAE, Rybkin et al. 2021).

    The mean is not squashed: a sigmoid here can saturate on black and then learns nothing more.
    """

    of = "grey values in [0, 1] (a density)"

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(-1.0))

    def log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        residual = ((x + 1) / 2 - h) * torch.exp(-self.log_sigma)
        return _per_image(-0.5 * (residual.square() + math.log(2 * math.pi)) - self.log_sigma)

    def image(self, h: Tensor) -> Tensor:
        return (2 * h - 1).clamp(-1, 1)


class ZeroInflated(Likelihood):
    """A pixel is ink with probability sigmoid(h_0), else 0; ink is n in 1..255 with probability e^(eta n) / Z(eta),
    eta = h_1 / 255, so that it is most often as dark or as white as can be, as strokes are."""

    channels = 2
    of = "8-bit pixels"

    def log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        h_ink, eta = h[:, :1], h[:, 1:] / 255
        n = (x + 1) * 127.5
        ink = (n > 0.5).float()
        # sum_{n=1}^{255} e^(eta n) = e^(128 eta) sinh(255 eta / 2) / sinh(eta / 2), whose logarithm is, with s = |eta|,
        # 128 eta + 127 s + log(1 - e^(-255 s)) - log(1 - e^(-s)); its Taylor series near 0
        near = eta.abs() < 1e-3
        s = torch.where(near, 1.0, eta.abs())
        far_log_z = 127 * s + torch.log(-torch.expm1(-255 * s)) - torch.log(-torch.expm1(-s))
        log_z = torch.where(near, math.log(255) + (255**2 - 1) / 24 * eta**2, far_log_z)
        grey = eta * (n - 128) - log_z
        return _per_image(ink * grey - F.binary_cross_entropy_with_logits(h_ink, ink, reduction="none"))

    def image(self, h: Tensor) -> Tensor:
        h_ink, eta = h[:, :1], h[:, 1:] / 255
        near = eta.abs() < 1e-3
        safe = torch.where(near, 1.0, eta)
        far_mean = 128 + 127.5 / torch.tanh(127.5 * safe) - 0.5 / torch.tanh(0.5 * safe)
        grey = torch.where(near, 128 + (255**2 - 1) / 12 * eta, far_mean)  # E[n | ink]
        return h_ink.sigmoid() * grey / 127.5 - 1


class Logistic(Likelihood):
    """F(x + 1/255) - F(x - 1/255), F the logistic cdf with mean and scale of its own for each pixel; the two ends
    take the tails (Salimans et al. 2017, with one component)."""

    channels = 2
    of = "8-bit pixels"

    def log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        mean, log_scale = h[:, :1], (h[:, 1:] - 2).clamp(-6, 2)
        upper, lower = ((x - mean + side / 255) * torch.exp(-log_scale) for side in (1, -1))
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which stays exact in the tails
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
        ends = torch.where(x < 0, F.logsigmoid(upper), F.logsigmoid(-lower))
        return _per_image(torch.where(x.abs() > 1 - 1 / 255, ends, inside))

    def image(self, h: Tensor) -> Tensor:
        """The mode: with both tails on the ends, it is what a stroke looks like."""
        return h[:, :1].clamp(-1, 1)


class Categorical(Likelihood):
    """A softmax over 32 grey levels, uniform over the 8 pixel values of a level."""

    channels = GREY_LEVELS
    of = "8-bit pixels"

    def log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        values = 256 // GREY_LEVELS
        level = rearrange(((x + 1) * 127.5).round().long() // values, "b 1 h w -> b h w")
        return _per_image(-F.cross_entropy(h, level, reduction="none") - math.log(values))

    def image(self, h: Tensor) -> Tensor:
        levels = torch.linspace(-1, 1, GREY_LEVELS, device=h.device)
        return torch.einsum("bkhw,k->bhw", h.softmax(1), levels)[:, None]


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "zero_inflated": ZeroInflated,
    "logistic": Logistic,
    "categorical": Categorical,
}


def log_normal(u: Tensor) -> Tensor:
    """log N(u; 0, I), (b, dim) -> (b,)."""
    return -0.5 * (u.square() + math.log(2 * math.pi)).sum(1)


def _per_image(log_prob: Tensor) -> Tensor:
    return log_prob.flatten(1).sum(1)


def _cross_entropy(h: Tensor, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(h, (x + 1) / 2, reduction="none")


def _log_normaliser(h: Tensor) -> Tensor:
    """log (h / tanh(h / 2)), by its Taylor series near 0."""
    near = h.abs() < 0.1
    safe = torch.where(near, 1.0, h)
    return torch.where(near, math.log(2) + h**2 / 12, torch.log(safe / torch.tanh(safe / 2)))


def _continuous_mean(h: Tensor) -> Tensor:
    """The mean of a continuous Bernoulli, 1 / (1 - exp(-h)) - 1 / h, by its Taylor series near 0."""
    near = h.abs() < 0.1
    safe = torch.where(near, 1.0, h)
    return torch.where(near, 0.5 + h / 12, -1 / torch.expm1(-safe) - 1 / safe)
