"""EDM: a denoiser that sees everything at unit variance.

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (2022),
https://arxiv.org/abs/2206.00364. For data x of standard deviation s, noise eps ~ N(0, I) and x_sigma = x + sigma eps,
the network F is trained inside a denoiser

    D(x_sigma, sigma, y) = s^2 / r^2 x_sigma + s sigma / r F(x_sigma / r, log(sigma) / 4, y),  r^2 = s^2 + sigma^2
    L = E r^2 / (s sigma)^2 |D(x + sigma eps, sigma, y) - x|^2,  log sigma ~ N(0, 1.2^2)

whose weight makes the error that F sees 1 at first, at any sigma. The space of pixels is centred and scaled to s = 0.5,
the paper's sigma_data; MNIST in [-1, 1] has mean -0.739 and standard deviation 0.616. The paper's mean of log sigma is
-1.2; a stroke is many pixels that go together, whose shape is decided at higher noise than a photograph's details.
Sampling is the paper's algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mnistgen import Loss, Noise
from mnistgen_plugins.diffusion.base import Diffusion, DiffusionConfig, ends
from mnistgen_plugins.diffusion.pixels import PIXEL_STD
from mnistgen_plugins.diffusion.solvers import Denoiser, VEPath, edm_sampler, heun, karras


@dataclass(frozen=True)
class EDMConfig(DiffusionConfig):
    """Hyperparameters of `EDM`."""

    epochs: float = 30.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    log_sigma_mean: float = 0.0
    """Mean of log sigma of a training image (P_mean)."""
    log_sigma_std: float = 1.2
    """Standard deviation of log sigma of a training image (P_std)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("log_sigma_mean")
        self.require("log_sigma_std", least=0)


class EDM(Diffusion):
    """Diffusion with preconditioned denoiser and Heun sampler, class-conditional (Karras et al. 2022)."""

    Config = EDMConfig
    config: EDMConfig
    path = VEPath(noisy=80.0)

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The weighted squared error of the denoiser, a pixel."""
        x = self.pixels.encode(x)
        sigma = (self.config.log_sigma_mean + self.config.log_sigma_std * torch.randn(len(y), device=x.device)).exp()
        x_sigma = self.path.at(x, torch.randn_like(x), sigma)
        y = self.some_labels(y)
        error = self.denoise(x_sigma, sigma, y) - x - self.guidance_correction(self.denoise, x_sigma, sigma, y)
        weight = (PIXEL_STD**2 + sigma**2) / (PIXEL_STD * sigma) ** 2
        yield Loss((weight[:, None, None, None] * error.square()).mean(), self)

    def denoise(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        sigma = t[:, None, None, None]
        scale = (PIXEL_STD**2 + sigma**2).rsqrt()
        F_x = self.evaluate(scale * x_t, t[:, None].clamp_min(1e-4).log() / 4, y)
        return (PIXEL_STD * scale) ** 2 * x_t + PIXEL_STD * sigma * scale * F_x

    def sample_trajectory(
        self,
        y: Tensor,
        *,
        noise: Noise,
        steps: int = 18,
        churn: float = 0.0,
        churn_from: float = 0.05,
        churn_to: float = 50.0,
        noise_scale: float = 1.003,
        guidance_scale: float = 1.0,
        guidance_start: float = 0.0,
        guidance_end: float = 80.0,
        autoguidance_model: str = "",
    ) -> Iterator[Tensor]:
        """Sample by noise levels from 80 to 0, with two evaluations each but the last.

        Args:
            steps: Noise levels from noise to image; more are slower and more exact.
            churn: Noise added during sampling, S_churn of the paper; 0 is deterministic.
            churn_from: Lowest noise level at which it is added, S_min.
            churn_to: Highest noise level at which it is added, S_max.
            noise_scale: Factor on the noise that is added, S_noise.
            guidance_scale: Factor on what the class adds (classifier-free guidance), or on the difference from the
                autoguidance model; 1 is none.
            guidance_start: Lowest noise level at which there is guidance; 0 is the image.
            guidance_end: Highest noise level at which there is guidance.
            autoguidance_model: Checkpoint of a smaller or less trained model of the same kind to guide away from, in
                place of classifier-free guidance.
        """
        denoiser = self.denoiser(
            y,
            guidance_scale=guidance_scale,
            start=guidance_start,
            end=guidance_end,
            autoguidance_model=autoguidance_model,
        )
        return self.images(
            edm_sampler(
                denoiser,
                self.prior_sample(noise),
                self.times(steps),
                noise=noise,
                s_churn=churn,
                s_min=churn_from,
                s_max=churn_to,
                s_noise=noise_scale,
            )
        )

    sample = ends(sample_trajectory)

    def times(self, steps: int, start: float = 0.0) -> Tensor:
        return karras(steps, highest=self.path.noisy, start=start)

    def follow(self, denoiser: Denoiser, state: Tensor, times: Tensor) -> Iterator[Tensor]:
        field = self.path.field(denoiser)
        if times[0] > times[-1]:
            return heun(field, state, times)
        return heun(field, state, times[1:], last_euler=False)  # the first level that has a velocity is above 0
