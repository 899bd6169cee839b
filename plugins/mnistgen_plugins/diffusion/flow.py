"""Flow matching on the straight path: the flagship.

Lipman et al., "Flow Matching for Generative Modeling" (2023), https://arxiv.org/abs/2210.02747; Liu et al. (2023);
times are drawn as in Esser et al. (2024). For data x, noise eps ~ N(0, I) and x_t = t x + (1 - t) eps,

    L = E |v(x_t, t, y) - (x - eps)|^2,  t = sigmoid(n),  n ~ N(0, 1)

and a sample is x_1 of dx_t/dt = v(x_t, t, y) from x_0 = eps. Noise and data are drawn independently. For a share of the
images, the network is not told the class, so that it can be guided by it.

The path leads through a space of pixels in which black stands apart and ink has its rank for a value (`PixelSpace`):
what comes out are grey levels with the frequencies of the training images, 81 % exact black among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnistgen import Loss, Noise, UsageError
from mnistgen_plugins.diffusion.base import Diffusion, DiffusionConfig, ends, loaded
from mnistgen_plugins.diffusion.solvers import SOLVERS, Denoiser, Field, LinearPath, even, midpoint

LAST = 1 - 1e-3  # the last time at which a denoiser has a velocity
Solver = Literal["euler", "midpoint", "heun", "adams", "rk4", "adaptive"]


@dataclass(frozen=True)
class FlowConfig(DiffusionConfig):
    """Hyperparameters of `Flow`."""

    time_mean: float = 0.0
    """Mean of the normal variable whose sigmoid is the time t of a training image."""
    time_std: float = 1.0
    """Standard deviation of that variable."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("time_mean")
        self.require("time_std", least=0)


class Flow(Diffusion):
    """Flow matching on the straight path, class-conditional (Lipman et al. 2023)."""

    Config = FlowConfig
    config: FlowConfig
    path = LinearPath()

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The squared error of the velocity, a pixel."""
        x = self.pixels.encode(x)
        n = self.config.time_mean + self.config.time_std * torch.randn(len(y), device=x.device)
        t, eps, y = n.sigmoid(), torch.randn_like(x), self.some_labels(y)
        x_t = self.path.at(x, eps, t)
        error = self.velocity(x_t, t, y) - (x - eps) - self.guidance_correction(self.velocity, x_t, t, y)
        yield Loss(error.square().mean(), self)

    def velocity(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """v(x_t, t, y): (b, 1, 28, 28), (b,), labels or class weights -> (b, 1, 28, 28)."""
        return self.evaluate(x_t, 2 * t[:, None] - 1, y)

    def denoise(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.path.data_of_velocity(x_t, self.velocity(x_t, t, y), t)

    def sample_trajectory(
        self,
        y: Tensor,
        *,
        noise: Noise,
        steps: int = 8,
        solver: Solver = "adams",
        guidance_scale: float = 1.0,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        autoguidance_model: str = "",
    ) -> Iterator[Tensor]:
        """x_1 by a solver of the ODE.

        Args:
            steps: Steps from noise to image; more are slower and more exact.
            solver: How a step is taken; euler needs one evaluation of the network a step, heun and midpoint two, rk4
                four, adams one and remembers the last; adaptive chooses its steps itself.
            guidance_scale: Factor on what the class adds (classifier-free guidance), or on the difference from the
                autoguidance model; 1 is none.
            guidance_start: Time from which there is guidance; 0 is noise.
            guidance_end: Time up to which there is guidance; 1 is the image.
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
        return self.images(SOLVERS[solver](self.field(denoiser), self.prior_sample(noise), self.times(steps)))

    sample = ends(sample_trajectory)

    def times(self, steps: int, start: float = 0.0) -> Tensor:
        return start + (1 - start) * even(self.path, steps)

    def field(self, denoiser: Denoiser) -> Field:
        """The velocity of a denoiser; at the data, where a denoiser has none, that of a little before."""
        field = self.path.field(denoiser)
        return lambda x_t, t: field(x_t, t.clamp(max=LAST))

    def follow(self, denoiser: Denoiser, state: Tensor, times: Tensor) -> Iterator[Tensor]:
        if times[0] > times[-1]:
            times = times.clamp(max=LAST)
        return midpoint(self.field(denoiser), state, times)


def teacher(name: str, student: Diffusion) -> Flow:
    """The flow of a checkpoint, to learn from, on the device of the student and with a network of the same shape."""
    flow = loaded(name)
    if not isinstance(flow, Flow) or flow.num_classes != student.num_classes:
        raise UsageError(f"teacher is {name}, which is no Flow of {student.num_classes} classes.")
    shapes = [(config.width, config.blocks) for config in (student.config, flow.config)]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"teacher is {name}, of width {shapes[1][0]} and {shapes[1][1]} blocks; this model has width "
            f"{shapes[0][0]} and {shapes[0][1]} blocks. Give it those of the teacher."
        )
    return flow.to(student.pixels.values.device)
