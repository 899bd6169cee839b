"""Distributions of an image's pixels, of which a decoder gives the parameters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mnistgen.model import Noise

GREY_LEVELS = 32  # of the categorical likelihood
VALUES = 256 // GREY_LEVELS  # of a pixel, in a grey level


class Likelihood(nn.Module, ABC):
    """p(x | h) of an image, one factor for each pixel, given the decoder's output h, (b, channels, 28, 28).

    All methods take any height and width: an autoregressive model draws pixel after pixel, (b, channels, 1, 1).
    """

    channels: int = 1
    of: str  # what data the nats are of

    @abstractmethod
    def pixel_log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        """log p of each pixel in nats: x (b, 1, 28, 28) in [-1, 1] -> the same shape."""

    def log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        """log p(x | h) in nats: x (b, 1, 28, 28) in [-1, 1] -> (b,)."""
        return self.pixel_log_prob(h, x).flatten(1).sum(1)

    @abstractmethod
    def sample(self, h: Tensor, noise: Noise) -> Tensor:
        """An image drawn from p(x | h), (b, 1, 28, 28), each pixel by the inverse of its cdf."""

    @abstractmethod
    def image(self, h: Tensor) -> Tensor:
        """The image to show, (b, 1, 28, 28) in [-1, 1]: E[x | h] where the class does not say otherwise."""


class Bernoulli(Likelihood):
    """v log p + (1 - v) log (1 - p), v = (x + 1) / 2: the mean of log p(b) over binary pixels b ~ Bernoulli(v)."""

    of = "stochastically binarised pixels"

    def pixel_log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        return -_cross_entropy(h, x)

    def sample(self, h: Tensor, noise: Noise) -> Tensor:
        """A binary image, -1 or 1."""
        return 2 * (noise.uniform(*h.shape[1:]) < h.sigmoid()).float() - 1

    def image(self, h: Tensor) -> Tensor:
        return 2 * h.sigmoid() - 1


class ContinuousBernoulli(Likelihood):
    """C(h) p^v (1 - p)^(1 - v), a density of v in [0, 1]: C(h) = h / tanh(h / 2) (Loaiza-Ganem & Cunningham 2019)."""

    of = "grey values in [0, 1] (a density)"

    def pixel_log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        return _log_normaliser(h) - _cross_entropy(h, x)

    def sample(self, h: Tensor, noise: Noise) -> Tensor:
        return 2 * _exponential_quantile(noise.uniform(*h.shape[1:]), h) - 1

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

    def pixel_log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        residual = ((x + 1) / 2 - h) * torch.exp(-self.log_sigma)
        return -0.5 * (residual.square() + math.log(2 * math.pi)) - self.log_sigma

    def sample(self, h: Tensor, noise: Noise) -> Tensor:
        """A normal variable knows no bounds: what is shown has to be clamped to [-1, 1]."""
        return 2 * (h + self.log_sigma.exp() * noise.normal(*h.shape[1:])) - 1

    def image(self, h: Tensor) -> Tensor:
        return (2 * h - 1).clamp(-1, 1)


class ZeroInflated(Likelihood):
    """A pixel is ink with probability sigmoid(h_0), else 0; ink is n in 1..255 with probability e^(eta n) / Z(eta),
    eta = h_1 / 255, so that it is most often as dark or as white as can be, as strokes are."""

    channels = 2
    of = "8-bit pixels"

    def pixel_log_prob(self, h: Tensor, x: Tensor) -> Tensor:
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
        return ink * grey - F.binary_cross_entropy_with_logits(h_ink, ink, reduction="none")

    def sample(self, h: Tensor, noise: Noise) -> Tensor:
        is_ink, u = noise.uniform(2, *h.shape[2:]).chunk(2, dim=1)
        n = (255 * _exponential_quantile(u, h[:, 1:])).ceil().clamp(1, 255)
        return torch.where(is_ink < h[:, :1].sigmoid(), n, 0.0) / 127.5 - 1

    def image(self, h: Tensor) -> Tensor:
        """The median of each pixel, which unlike the mean is sharp: exactly black where ink is less likely than not.

        It is the n for which P(pixel <= n) = 1/2, where P(ink <= n) = (e^(eta n) - 1) / (e^(255 eta) - 1) holds for
        whole n and stands for what is between them.
        """
        h_ink, a = h[:, :1], h[:, 1:]  # a = 255 eta
        share = 1 - 0.5 / h_ink.sigmoid()  # P(ink <= median); where it is negative, the median is 0
        n = _exponential_quantile(share.clamp(1e-6, 1), a)  # in parts of 255
        return 2 * torch.where(share > 0, n, 0.0) - 1


class Logistic(Likelihood):
    """F(x + 1/255) - F(x - 1/255), F the logistic cdf with mean and scale of its own for each pixel; the two ends
    take the tails (Salimans et al. 2017, with one component)."""

    channels = 2
    of = "8-bit pixels"

    def pixel_log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        mean, log_scale = self._parameters_of(h)
        upper, lower = ((x - mean + side / 255) * torch.exp(-log_scale) for side in (1, -1))
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which stays exact in the tails
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
        ends = torch.where(x < 0, F.logsigmoid(upper), F.logsigmoid(-lower))
        return torch.where(x.abs() > 1 - 1 / 255, ends, inside)

    def sample(self, h: Tensor, noise: Noise) -> Tensor:
        mean, log_scale = self._parameters_of(h)
        x = mean + log_scale.exp() * noise.uniform(1, *h.shape[2:]).clamp(1e-7, 1 - 1e-7).logit()
        return ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1  # the grey level whose bin it falls into

    @staticmethod
    def _parameters_of(h: Tensor) -> tuple[Tensor, Tensor]:
        return h[:, :1], (h[:, 1:] - 2).clamp(-6, 2)

    def image(self, h: Tensor) -> Tensor:
        """The mode: with both tails on the ends, it is what a stroke looks like."""
        return h[:, :1].clamp(-1, 1)


class Categorical(Likelihood):
    """A softmax over 32 grey levels, uniform over the 8 pixel values of a level."""

    channels = GREY_LEVELS
    of = "8-bit pixels"

    def pixel_log_prob(self, h: Tensor, x: Tensor) -> Tensor:
        level = rearrange(((x + 1) * 127.5).round().long() // VALUES, "b 1 h w -> b h w")
        return -F.cross_entropy(h, level, reduction="none")[:, None] - math.log(VALUES)

    def sample(self, h: Tensor, noise: Noise) -> Tensor:
        level = noise.categorical(rearrange(h, "b k h w -> b 1 h w k"))
        within = (VALUES * noise.uniform(1, *h.shape[2:])).floor()
        return (VALUES * level + within) / 127.5 - 1

    def image(self, h: Tensor) -> Tensor:
        levels = torch.linspace(-1, 1, GREY_LEVELS, device=h.device)
        return torch.einsum("bkhw,k->bhw", h.softmax(1), levels)[:, None]


LikelihoodName = Literal["zero_inflated", "bernoulli", "continuous_bernoulli", "gaussian", "logistic", "categorical"]

LIKELIHOODS: dict[LikelihoodName, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "zero_inflated": ZeroInflated,
    "logistic": Logistic,
    "categorical": Categorical,
}


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


def _exponential_quantile(u: Tensor, h: Tensor) -> Tensor:
    """The v in [0, 1] below which the density proportional to e^(h v) has the share u: log(1 + u (e^h - 1)) / h."""
    near, falling, rising = h.abs() < 1e-3, h.clamp(max=-1e-3), h.clamp(min=1e-3)
    v_falling = torch.log1p(u * torch.expm1(falling)) / falling
    v_rising = 1 + torch.log(torch.exp(-rising) - u * torch.expm1(-rising)) / rising
    return torch.where(near, u, torch.where(h < 0, v_falling, v_rising)).clamp(0, 1)
