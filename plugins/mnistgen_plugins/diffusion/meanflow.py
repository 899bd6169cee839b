"""MeanFlow: the average velocity of a flow over any part of its way, so that one step goes all of it.

Geng et al., "Mean Flows for One-step Generative Modeling" (2025), https://arxiv.org/abs/2505.13447. Times as in the
paper: for data x, noise eps and z_t = (1 - t) x + t eps, the velocity is v = eps - x, and its average from r to t,

    u(z_t, r, t) = 1 / (t - r) int_r^t v(z_s, s) ds,    obeys    u = v - (t - r) du/dt,   du/dt = v d_z u + d_t u,

the MeanFlow identity. With the network for u on the right, and no gradient through it, that is what it is trained on:

    L = E w |u(z_t, r, t, y) - (v - (t - r) du/dt)|^2,   w = 1 / (|...|^2 + c) without gradient

A share of the images have r = t, where it is flow matching and du/dt is not needed; it is computed for the others, by
one Jacobian-vector product. A sample is z_0 = z_1 - u(z_1, 0, 1), or as many steps of this kind as one likes.

With a trained flow for a teacher, u begins as its velocity, which then takes the place of v: it is the mean of all
eps - x that lead through z_t, and has none of their variance. And the identity may be had in its finite form, where the
teacher is followed for a short time h (as in Kim et al., "Consistency Trajectory Models", 2024):

    (t - r) u(z_t, r, t) = h v(z_t, t) + (t - h - r) u(z_(t - h), r, t - h),    z_(t - h) = z_t - h v(z_t, t)

with the midpoint rule's v. It needs evaluations only, which are fast in bfloat16, and no derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, jvp

from mnistgen import Loss, Noise, UsageError
from mnistgen_plugins.diffusion.base import Diffusion, DiffusionConfig
from mnistgen_plugins.diffusion.flow import Flow, teacher
from mnistgen_plugins.diffusion.solvers import Denoiser, LinearPath, even, last, midpoint
from mnistgen_plugins.diffusion.unet import UNet


@dataclass(frozen=True)
class MeanFlowConfig(DiffusionConfig):
    """Hyperparameters of `MeanFlow`."""

    epochs: float = 10.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    time_mean: float = -0.4
    """Mean of the normal variable whose sigmoid is a time."""
    time_std: float = 1.0
    """Standard deviation of that variable."""
    instant: float = 0.75
    """Share of the images with r = t."""
    damping: float = 1e-3
    """c in the weight of an image."""
    teacher: str = ""
    """Checkpoint of a flow that the velocity comes from, and the weights to begin with; without one, from scratch."""
    part: float = 0.0
    """h, the time for which the velocity is followed; 0 for the derivative."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("time_mean")
        self.require("time_std", least=0)
        self.require("instant", least=0, below=1)
        self.require("damping", above=0)
        self.require("part", least=0, below=1)


class MeanFlow(Diffusion):
    """One-step generation by the average velocity of a flow, class-conditional (Geng et al. 2025)."""

    Config = MeanFlowConfig
    config: MeanFlowConfig
    path = LinearPath()

    def __init__(self, config: MeanFlowConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.network = UNet(num_classes, config.width, config.blocks, times=2)

    def prepare(self, images: Tensor) -> None:
        """Learn the space of pixels from the training images, or take it and the weights from the teacher."""
        super().prepare(images)
        if self.config.teacher:
            flow = self.teacher()
            self.pixels.load_state_dict(flow.pixels.state_dict())
            start = dict(flow.network.state_dict())
            first = torch.zeros_like(self.network.embed.first.weight)
            # Cosines of t, cosines of t - r, sines of t, sines of t - r: what is new begins at zero.
            of_t = first.unflatten(1, (2, 2, -1))[:, :, 0]
            of_t.copy_(start["embed.first.weight"].unflatten(1, (2, -1)))
            start["embed.first.weight"] = first
            self.network.load_state_dict(start)

    def teacher(self) -> Flow:
        """The flow that is learnt from."""
        return teacher(self.config.teacher, self)

    def velocity(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The teacher's v(z_t, t, y), at the paper's times."""
        return -self.teacher().velocity(z, 1 - t, y)

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The weighted squared error of the average velocity; `error` is it without the weight, a pixel."""
        x = self.pixels.encode(x)
        r, t = self.spans(len(y), x.device)
        eps, y = torch.randn_like(x), self.some_labels(y)
        z, v = torch.lerp(x, eps, t[:, None, None, None]), eps - x
        if self.config.teacher:
            with torch.no_grad():
                v = self.velocity(z, t, y)
        else:
            v = v + self.guidance_correction(
                lambda z, t, y: self.instant_velocity(z, 1 - t, y), z, 1 - t, y
            )  # of our times
        target = self.followed(z, v, r, t, y) if self.config.part else self.target(z, v, r, t, y)
        error = (self.average_velocity(z, r, t, y) - target).square().flatten(1).mean(1)
        weight = 1 / (error.detach() + self.config.damping)
        yield Loss((weight * error).mean(), self, {"error": error.mean()})

    def spans(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """r <= t, (n,) each; of the share `instant`, they are equal."""
        s = (self.config.time_mean + self.config.time_std * torch.randn(n, 2, device=device)).sigmoid()
        r, t = s.min(1).values, s.max(1).values
        instant = torch.rand(n, device=device) < self.config.instant
        return torch.where(instant, t, r), t

    def target(self, z: Tensor, v: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """v - (t - r) du/dt, without a gradient."""
        later = r < t
        target = v.clone()
        if bool(later.any()):
            span = (t - r)[later]
            target[later] -= span[:, None, None, None] * self.slope(z[later], v[later], r[later], t[later], y[later])
        return target

    @torch.no_grad()
    def followed(self, z: Tensor, v: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """u(z_t, r, t) by the velocity for the time h, and the network for the rest."""
        h = (t - r).clamp(max=self.config.part)
        wide = h[:, None, None, None]
        if self.config.teacher:
            v = self.velocity(z - wide / 2 * v, t - h / 2, y)
        rest = (t - h - r).clamp_min(0)
        onward = self.average_velocity(z - wide * v, r, t - h, y)
        share = torch.where(rest > 0, rest / (t - r), 0)[:, None, None, None]
        return torch.lerp(v, onward, share)

    @torch.no_grad()
    def slope(self, z: Tensor, v: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """du/dt = v d_z u + d_t u along the path, in float32."""
        # Group normalisation is differentiated forwards in the plain memory format only; of one channel or one pixel,
        # a tensor has both formats at once, and a copy has none of the other.
        plain = torch.contiguous_format
        weights = {name: weight.clone(memory_format=plain) for name, weight in self.network.named_parameters()}
        point, direction = (z.clone(memory_format=plain), t), (v.clone(memory_format=plain), torch.ones_like(t))

        def exact(z: Tensor, t: Tensor) -> Tensor:
            return self.average_velocity(z, r, t, y, lambda *inputs: functional_call(self.network, weights, inputs))

        with torch.autocast(z.device.type, enabled=False):
            outputs = jvp(exact, point, direction)
        derivative: Tensor = outputs[1]
        return derivative

    def average_velocity(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor, network: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """u(z_t, r, t, y): (b, 1, 28, 28), (b,) twice, labels or class weights -> (b, 1, 28, 28)."""
        return -(network or self.evaluate)(z, torch.stack([1 - 2 * t, t - r], 1), y)

    def instant_velocity(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """u(z_t, t, t, y) = v(z_t, t, y)."""
        return self.average_velocity(z, t, t, y)

    def denoise(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The denoiser of the velocity, u(z, s, s), at the paper's time s = 1 - t."""
        s = 1 - t
        return x_t - s[:, None, None, None] * self.instant_velocity(x_t, s, y)

    def sample(self, y: Tensor, *, noise: Noise, steps: int = 1) -> Tensor:
        """z_0 by average velocities, each over an equal time.

        Args:
            steps: Evaluations of the network; one is what it is trained for.
        """
        return last(self.sample_trajectory(y, noise=noise, steps=steps))

    def sample_trajectory(self, y: Tensor, *, noise: Noise, steps: int = 1) -> Iterator[Tensor]:
        """z_r as an image after each step."""
        if steps < 1:
            raise UsageError(f"steps is {steps}; it must be at least 1.")
        return self.images(self.leaps(self.prior_sample(noise), y, steps))

    def leaps(self, z: Tensor, y: Tensor, steps: int) -> Iterator[Tensor]:
        """z_r = z_t - (t - r) u(z_t, r, t), step by step."""
        for step in range(steps):
            t = 1 - step / steps
            r = 1 - (step + 1) / steps
            z = z - (t - r) * self.average_velocity(z, z.new_full(z.shape[:1], r), z.new_full(z.shape[:1], t), y)
            yield z

    def times(self, steps: int, start: float = 0.0) -> Tensor:
        return start + (1 - start) * even(self.path, steps)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The image of one step."""
        return self.pixels.decode(last(self.leaps(z, y, 1)))

    def follow(self, denoiser: Denoiser, state: Tensor, times: Tensor) -> Iterator[Tensor]:
        """Follow the velocity, u(z, s, s)."""
        if times[0] > times[-1]:
            times = times.clamp(max=1 - 1e-3)  # at the data, a denoiser has no velocity
        return midpoint(self.path.field(denoiser), state, times)
