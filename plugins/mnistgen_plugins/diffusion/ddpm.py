"""DDPM: a thousand small steps of noise, and back.

Ho et al., "Denoising Diffusion Probabilistic Models" (2020), https://arxiv.org/abs/2006.11239. With alpha_t^2 the
product of 1 - beta_s for s <= t, beta from 1e-4 to 0.02 in T = 1000 steps, and x_t = alpha_t x + sigma_t eps, the loss
is the paper's simple one, of the noise:

    L = E |eps(x_t, t, y) - eps|^2,  t ~ U{1, ..., T}

A sample is drawn by any number of the steps: by DDIM (Song et al. 2021) with eta = 0, by ancestral sampling with
eta = 1. As in the paper's own code, the data that the network predicts is kept in the range that data has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mnistgen import Loss, Noise, UsageError
from mnistgen_plugins.diffusion.base import Diffusion, DiffusionConfig, ends
from mnistgen_plugins.diffusion.solvers import Denoiser, VPPath, ddim

T = 1000


@dataclass(frozen=True)
class DDPMConfig(DiffusionConfig):
    """Hyperparameters of `DDPM`."""

    epochs: float = 30.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""


class DDPM(Diffusion):
    """Denoising diffusion with DDIM and ancestral sampling, class-conditional (Ho et al. 2020)."""

    Config = DDPMConfig
    config: DDPMConfig
    path = VPPath(T)

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The squared error of the noise, a pixel."""
        x = self.pixels.encode(x)
        t = torch.randint(1, T + 1, (len(y),), device=x.device).float()
        eps, y = torch.randn_like(x), self.some_labels(y)
        x_t = self.path.at(x, eps, t)
        error = self.noise(x_t, t, y) - eps - self.guidance_correction(self.noise, x_t, t, y)
        yield Loss(error.square().mean(), self)

    def noise(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """eps(x_t, t, y): (b, 1, 28, 28), (b,), labels or class weights -> (b, 1, 28, 28)."""
        return self.evaluate(x_t, 2 * t[:, None] / T - 1, y)

    def denoise(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        data = self.path.data_of_noise(x_t, self.noise(x_t, t, y), t)
        return data.clamp(self.pixels.values[0], self.pixels.values[-1])

    def sample_trajectory(
        self,
        y: Tensor,
        *,
        noise: Noise,
        steps: int = 50,
        eta: float = 0.0,
        guidance_scale: float = 1.0,
        guidance_start: float = 0.0,
        guidance_end: float = 1000.0,
        autoguidance_model: str = "",
    ) -> Iterator[Tensor]:
        """Sample by steps of equal length: DDIM with `eta` 0, ancestral sampling with 1.

        Args:
            steps: Steps from noise to image, at most 1,000; more are slower and more exact.
            eta: Share of new noise in each step: 0 is deterministic DDIM, 1 ancestral sampling.
            guidance_scale: Factor on what the class adds (classifier-free guidance), or on the difference from the
                autoguidance model; 1 is none.
            guidance_start: Lowest of the 1,000 noise levels at which there is guidance; 0 is the image.
            guidance_end: Highest of the 1,000 noise levels at which there is guidance.
            autoguidance_model: Checkpoint of a smaller or less trained model of the same kind to guide away from, in
                place of classifier-free guidance.
        """
        if not 1 <= steps <= T:
            raise UsageError(f"steps is {steps}; it must be from 1 to {T}.")
        denoiser = self.denoiser(
            y,
            guidance_scale=guidance_scale,
            start=guidance_start,
            end=guidance_end,
            autoguidance_model=autoguidance_model,
        )
        return self.images(ddim(denoiser, self.path, self.prior_sample(noise), self.times(steps), noise=noise, eta=eta))

    sample = ends(sample_trajectory)

    def times(self, steps: int, start: float = 0.0) -> Tensor:
        times: Tensor = torch.linspace(round((1 - start) * T), 0, steps + 1, dtype=torch.float64).round().unique()
        return times.flip(0)

    def follow(self, denoiser: Denoiser, state: Tensor, times: Tensor) -> Iterator[Tensor]:
        return ddim(denoiser, self.path, state, times.clamp_min(1) if times[0] < times[-1] else times)
