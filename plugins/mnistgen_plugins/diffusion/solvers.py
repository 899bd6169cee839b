"""Solvers of diffusion and flow models, as free functions over a callable.

All such models follow a path x_t = alpha(t) x + sigma(t) eps from noise eps ~ N(0, I) to data x, and know one of

    data        D(x_t, t) = E[x | x_t]              the denoiser
    noise       eps       = (x_t - alpha D) / sigma
    velocity    v         = alpha' D + sigma' eps   the field of the ODE dx/dt = v, which has the path's marginals
    score       s         = -eps / sigma            the gradient of log p(x_t)

A `ProbabilityPath` turns each into each; a solver takes a `Denoiser` or a `Field`, and any solver takes any model's.
`t` is (b,), one time for each image. Solvers are generators that yield the images after each step: `last(...)` is the
sample, and the whole is the sampling trajectory. No solver looks at one image to decide on another, so that an image
does not depend on its batch.

Guidance and inpainting are closures around a denoiser, and no solver knows of them.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mnistgen.errors import UsageError
from mnistgen.model import Noise

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""D(x_t, t): (b, ...), (b,) -> (b, ...)."""
Field = Callable[[Tensor, Tensor], Tensor]
"""v(x_t, t): (b, ...), (b,) -> (b, ...)."""


class ProbabilityPath(ABC):
    """x_t = alpha(t) x + sigma(t) eps, and what follows from it. Times are (b,), images (b, ...)."""

    noisy: float
    """The time at which x_t is noise, for practical purposes."""
    clean: float
    """The time at which x_t is data."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The weight of the data, (b,) -> (b,)."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise, (b,) -> (b,)."""

    @abstractmethod
    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha'(t) and sigma'(t), (b,) -> (b,) each."""

    @abstractmethod
    def time_at(self, ratio: float) -> float:
        """The time at which sigma / alpha is `ratio`; the nearest whole one where times are whole."""

    def at(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t."""
        return _like(self.alpha(t), x) * x + _like(self.sigma(t), x) * eps

    def noise(self, x_t: Tensor, data: Tensor, t: Tensor) -> Tensor:
        """eps of x_t and the data."""
        return (x_t - _like(self.alpha(t), x_t) * data) / _like(self.sigma(t), x_t)

    def velocity(self, x_t: Tensor, data: Tensor, t: Tensor) -> Tensor:
        """v of x_t and the data."""
        alpha_slope, sigma_slope = (_like(slope, x_t) for slope in self.slopes(t))
        return alpha_slope * data + sigma_slope * self.noise(x_t, data, t)

    def score(self, x_t: Tensor, data: Tensor, t: Tensor) -> Tensor:
        """The gradient of log p(x_t) of x_t and the data (Tweedie's formula)."""
        return -self.noise(x_t, data, t) / _like(self.sigma(t), x_t)

    def data_of_noise(self, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The data of x_t and eps."""
        return (x_t - _like(self.sigma(t), x_t) * eps) / _like(self.alpha(t), x_t)

    def data_of_velocity(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The data of x_t and v."""
        alpha, sigma = _like(self.alpha(t), x_t), _like(self.sigma(t), x_t)
        alpha_slope, sigma_slope = (_like(slope, x_t) for slope in self.slopes(t))
        return (sigma * v - sigma_slope * x_t) / (alpha_slope * sigma - alpha * sigma_slope)

    def data_of_score(self, x_t: Tensor, score: Tensor, t: Tensor) -> Tensor:
        """The data of x_t and the score."""
        return self.data_of_noise(x_t, -_like(self.sigma(t), x_t) * score, t)

    def field(self, denoiser: Denoiser) -> Field:
        """The velocity of a denoiser."""
        return lambda x_t, t: self.velocity(x_t, denoiser(x_t, t), t)

    def denoiser(self, field: Field) -> Denoiser:
        """The denoiser of a velocity; the inverse of `field`."""
        return lambda x_t, t: self.data_of_velocity(x_t, field(x_t, t), t)


class LinearPath(ProbabilityPath):
    """x_t = t x + (1 - t) eps, t from 0 to 1: v = x - eps (Lipman et al. 2023; Liu et al. 2023)."""

    noisy, clean = 0.0, 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), -torch.ones_like(t)

    def time_at(self, ratio: float) -> float:
        return 1 / (1 + ratio)

    def velocity(self, x_t: Tensor, data: Tensor, t: Tensor) -> Tensor:
        """(x - x_t) / (1 - t)."""
        return (data - x_t) / _like(1 - t, x_t)

    def data_of_velocity(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """x_t + (1 - t) v, at t = 1, too."""
        return x_t + _like(1 - t, x_t) * v


@dataclass(frozen=True)
class VEPath(ProbabilityPath):
    """x_t = x + t eps: the time is the noise level sigma itself (Song et al. 2021; Karras et al. 2022)."""

    noisy: float = 80.0
    clean: float = 0.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def time_at(self, ratio: float) -> float:
        return ratio


class VPPath(ProbabilityPath):
    """alpha^2 + sigma^2 = 1 with alpha(t)^2 = prod_{s<=t} (1 - beta_s), t = 0, 1, ..., T (Ho et al. 2020, eq. 4).

    betas: linear from `first` to `last`. Between whole t, log alpha is interpolated linearly.
    """

    clean = 0.0

    def __init__(self, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> None:
        self.steps, self.noisy = steps, float(steps)
        betas = torch.linspace(first, last, steps, dtype=torch.float64)
        self.log_alpha = torch.cat([torch.zeros(1, dtype=torch.float64), (1 - betas).log().cumsum(0) / 2])

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt().to(t.dtype)

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The slopes from the right at whole t; sigma' is infinite at t = 0."""
        table = self.log_alpha.to(t.device)
        before = t.double().floor().clamp(0, self.steps - 1).long()
        slope = table[before + 1] - table[before]
        log_alpha = self._log_alpha(t)
        alpha, square = log_alpha.exp(), (2 * log_alpha).exp()
        return (slope * alpha).to(t.dtype), (-slope * square / (1 - square).sqrt()).to(t.dtype)

    def time_at(self, ratio: float) -> float:
        ratios = (-torch.expm1(2 * self.log_alpha)).sqrt() / self.log_alpha.exp()
        return float((ratios - ratio).abs().argmin())

    def _log_alpha(self, t: Tensor) -> Tensor:
        """In float64, on the device of t."""
        table, t = self.log_alpha.to(t.device), t.double()
        before = t.floor().clamp(0, self.steps - 1).long()
        return torch.lerp(table[before], table[before + 1], t - before)


def last(steps: Iterator[Tensor]) -> Tensor:
    """The last of what a solver yields."""
    x = None
    for x in steps:  # noqa: B007
        pass
    if x is None:
        raise UsageError("The solver took no step: it needs two times or more.")
    return x


def euler(field: Field, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """x + h v(x, t): order 1, one evaluation a step. `times`: (n + 1,) for n steps, as in all solvers here."""
    for t, h in _steps(x, times):
        x = x + h * field(x, t)
        yield x


def midpoint(field: Field, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """x + h v(x + h/2 v(x, t), t + h/2): order 2, two evaluations a step, none at the end of a step."""
    for t, h in _steps(x, times):
        middle = x + h / 2 * field(x, t)
        x = x + h * field(middle, t + h / 2)
        yield x


def heun(field: Field, x: Tensor, times: Tensor, *, last_euler: bool = True) -> Iterator[Tensor]:
    """x + h/2 (v(x, t) + v(x', t + h)), x' = x + h v(x, t): order 2, two evaluations a step.

    `last_euler`: the last step is Euler's, as in Karras et al. 2022, algorithm 1: at the data, a denoiser divided by
    the noise level has no velocity.
    """
    for number, (t, h) in enumerate(_steps(x, times)):
        slope = field(x, t)
        ahead = x + h * slope
        if last_euler and number == len(times) - 2:
            x = ahead
        else:
            x = x + h / 2 * (slope + field(ahead, t + h))
        yield x


def adams(field: Field, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """Adams-Bashforth on any times: order 2, one evaluation a step, with the velocity of the step before.

    x + h v + h^2 / (2 h_before) (v - v_before); the first step is Euler's.
    """
    before: tuple[Tensor, float] | None = None
    for t, h in _steps(x, times):
        slope = field(x, t)
        moved = x + h * slope
        if before is not None:
            moved = moved + h * h / (2 * before[1]) * (slope - before[0])
        x, before = moved, (slope, h)
        yield x


def rk4(field: Field, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """The classical Runge-Kutta method: order 4, four evaluations a step."""
    for t, h in _steps(x, times):
        k1 = field(x, t)
        k2 = field(x + h / 2 * k1, t + h / 2)
        k3 = field(x + h / 2 * k2, t + h / 2)
        k4 = field(x + h * k3, t + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        yield x


# Dormand & Prince 1980: times, weights of the stages before, and those of the fifth-order result and its error.
_DP_TIMES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_DP_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_DP_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def dormand_prince(
    field: Field, x: Tensor, times: Tensor, *, rtol: float = 1e-3, atol: float = 1e-3, max_steps: int = 1000
) -> Iterator[Tensor]:
    """An adaptive solver of order 5(4): each image has steps of its own, so that none depends on its batch.

    A step is taken where the estimated error is at most atol + rtol |x|, in the root mean square over the pixels
    (Hairer, Norsett & Wanner 1993, II.4). Yields x at each of `times` after the first. Raises `UsageError` where an
    image needs more than `max_steps` steps between two of them.
    """
    for number in range(len(times) - 1):
        start, end = float(times[number]), float(times[number + 1])
        t = x.new_full((len(x),), start)
        h = x.new_full((len(x),), (end - start) / 10)
        active = torch.ones(len(x), dtype=torch.bool, device=x.device)
        slope = field(x, t) if len(x) else x
        for _ in range(max_steps):
            if not bool(active.any()):
                break
            h = torch.where((end - t).abs() <= h.abs(), end - t, h)
            stages = [slope]
            for at, weights in zip(_DP_TIMES[1:], _DP_STAGES[1:], strict=True):
                inside = x + _like(h, x) * _weighted(weights, stages)
                stages.append(field(inside, t + at * h))
            error = _like(h, x) * _weighted(_DP_ERROR, stages)
            allowed = atol + rtol * torch.maximum(x.abs(), inside.abs())
            ratio = (error / allowed).square().flatten(1).mean(1).sqrt()
            taken = active & ~(ratio > 1)
            x = torch.where(_like(taken, x), inside, x)
            slope = torch.where(_like(taken, x), stages[-1], slope)  # the last stage is the first of the next step
            t = torch.where(taken, t + h, t)
            active = active & ~(taken & (t == end))
            h = h * (0.9 * ratio.clamp_min(1e-10) ** -0.2).clamp(0.2, 5.0)
        else:
            raise UsageError(
                f"dormand_prince took {max_steps} steps from t = {start:g} towards {end:g} and is not there; allow "
                "larger errors with rtol and atol."
            )
        yield x


def ddim(
    denoiser: Denoiser, path: ProbabilityPath, x: Tensor, times: Tensor, *, noise: Noise | None = None, eta: float = 0.0
) -> Iterator[Tensor]:
    """Steps from x_t to x_s of the same noise and data, part of the noise renewed (Song et al. 2021, eq. 12 and 16).

    x_s = alpha_s D + sqrt(sigma_s^2 - tau^2) eps + tau fresh, where tau = eta sigma_s sqrt(1 - r^2) and r is the ratio
    of the noise levels, (sigma_s / alpha_s) / (sigma_t / alpha_t), on any path. eta = 0: DDIM, the ODE; eta = 1:
    ancestral sampling (Ho et al. 2020), with the smaller of the paper's two variances. It needs `noise`, then.
    """
    if eta and noise is None:
        raise UsageError("ddim with eta above 0 draws noise; give it `noise`.")
    for now, then in itertools.pairwise(times):
        t, s = (time.to(x).expand(x.shape[0]) for time in (now, then))
        data = denoiser(x, t)
        eps = path.noise(x, data, t)
        sigma_t, sigma_s = path.sigma(t), path.sigma(s)
        ratio = path.alpha(t) * sigma_s / (path.alpha(s) * sigma_t)  # of the noise levels relative to the data
        tau = eta * sigma_s * (1 - ratio**2).clamp_min(0).sqrt()
        x = _like(path.alpha(s), x) * data + _like((sigma_s**2 - tau**2).clamp_min(0).sqrt(), x) * eps
        if eta and noise is not None and bool((tau > 0).any()):
            x = x + _like(tau, x) * noise.normal(*x.shape[1:])
        yield x


def edm_sampler(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Noise,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Tensor]:
    """Karras et al. 2022, algorithm 2, on `VEPath`: before each step, noise is added to a higher level.

    `s_churn` is shared among the steps, those from `s_min` to `s_max` take it, and `s_noise` scales it. Without churn,
    the images are those of `heun`.
    """
    gamma = min(s_churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    field = VEPath().field(denoiser)
    for now, then in itertools.pairwise(sigmas.tolist()):
        raised = now
        if gamma > 0 and s_min <= now <= s_max:
            raised = now * (1 + gamma)
            x = x + s_noise * math.sqrt(raised**2 - now**2) * noise.normal(*x.shape[1:])
        slope = field(x, x.new_full(x.shape[:1], raised))
        ahead = x + (then - raised) * slope
        if then > 0:
            ahead = x + (then - raised) / 2 * (slope + field(ahead, x.new_full(x.shape[:1], then)))
        x = ahead
        yield x


SOLVERS: dict[str, Callable[[Field, Tensor, Tensor], Iterator[Tensor]]] = {
    "euler": euler,
    "midpoint": midpoint,
    "heun": heun,
    "adams": adams,
    "rk4": rk4,
    "adaptive": dormand_prince,
}
"""Solvers of a field by name."""


def even(path: ProbabilityPath, steps: int) -> Tensor:
    """`steps` steps of equal length from noise to data, (steps + 1,)."""
    if steps < 1:
        raise UsageError(f"steps is {steps}; it must be at least 1.")
    return torch.linspace(path.noisy, path.clean, steps + 1, dtype=torch.float64)


def karras(steps: int, *, lowest: float = 0.002, highest: float = 80.0, rho: float = 7.0, start: float = 0.0) -> Tensor:
    """Noise levels from `highest` to `lowest`, evenly in sigma^(1/rho), then 0: (steps + 1,).

    Karras et al. 2022, equation 5; `start` leaves out that part of the levels, from `highest`.
    """
    if steps < 1:
        raise UsageError(f"steps is {steps}; it must be at least 1.")
    from_, to = highest ** (1 / rho), lowest ** (1 / rho)
    ramp = torch.linspace(from_ + start * (to - from_), to, steps, dtype=torch.float64) ** rho
    return torch.cat([ramp, ramp.new_zeros(1)])


def guide(
    main: Denoiser, guiding: Denoiser, scale: float, interval: tuple[float, float] = (-math.inf, math.inf)
) -> Denoiser:
    """guiding + scale (main - guiding) while t is in `interval`, else main.

    With the denoiser without a class as `guiding`, classifier-free guidance (Ho & Salimans 2022), in an interval that
    of Kynkaanniemi et al. 2024; with a smaller or less trained one, autoguidance (Karras et al. 2024). A scale of 1 is
    none.
    """
    first, last_ = interval

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        data = main(x_t, t)
        inside = (t >= first) & (t <= last_)
        if scale == 1 or not bool(inside.any()):
            return data
        other = guiding(x_t, t)
        return torch.where(_like(inside, x_t), other + scale * (data - other), data)

    return guided


def inpaint(denoiser: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
    """The denoiser of images that are `known` where `mask` is 1: there, the data need not be guessed.

    The known part follows the path from its own noise to `known`, and the network sees it at the level of the rest
    (Song et al. 2021, "imputation"; by the data instead of x_t). `known`, `mask`: broadcastable to x_t.
    """
    return lambda x_t, t: torch.where(mask.bool(), known, denoiser(x_t, t))


def log_likelihood(
    field: Field,
    x: Tensor,
    times: Tensor,
    solver: Callable[[Field, Tensor, Tensor], Iterator[Tensor]] = rk4,
    *,
    prior_std: float = 1.0,
    probe: Tensor | None = None,
) -> Tensor:
    """log p(x) of the probability-flow ODE, in nats: (b, ...) -> (b,) (Chen et al. 2018; Song et al. 2021, eq. 39).

    `times` lead from the data to the noise, whose standard deviation is `prior_std`. The divergence of the field is
    exact without a `probe`, one vector-Jacobian product a pixel; with one, random signs (b, ...), it is Hutchinson's
    estimate, one product in all, unbiased for the log-likelihood as the solver gives it.
    """
    flat = x.flatten(1)

    def augmented(state: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            point = state[:, :-1].detach().requires_grad_()
            velocity = field(point.view_as(x), t).flatten(1)
            if probe is not None:
                (product,) = torch.autograd.grad((velocity * probe.flatten(1)).sum(), point)
                divergence = (product * probe.flatten(1)).sum(1)
            else:
                rows = [
                    torch.autograd.grad(velocity[:, i].sum(), point, retain_graph=True)[0][:, i]
                    for i in range(point.shape[1])
                ]
                divergence = torch.stack(rows).sum(0)
        return torch.cat([velocity.detach(), divergence[:, None]], 1)

    state = last(solver(augmented, torch.cat([flat, flat.new_zeros(len(flat), 1)], 1), times))
    z, change = state[:, :-1] / prior_std, state[:, -1]
    log_prior = -0.5 * z.square().sum(1) - z.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(prior_std))
    return log_prior + change


def _steps(x: Tensor, times: Tensor) -> Iterator[tuple[Tensor, float]]:
    """The time at which each step begins, (b,), and its length."""
    for now, then in itertools.pairwise(times.tolist()):
        yield x.new_full(x.shape[:1], now), then - now


def _like(t: Tensor, x: Tensor) -> Tensor:
    """(b,) -> (b, 1, ..., 1)."""
    return t.view(-1, *[1] * (x.ndim - 1))


def _weighted(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    total = sum(weight * tensor for weight, tensor in zip(weights, tensors, strict=True) if weight)
    assert isinstance(total, Tensor)
    return total
