"""Paths and solvers, against closed forms: analytic ODEs, Gaussian mixtures and their densities."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from mnistgen_plugins.diffusion.solvers import (
    SOLVERS,
    Denoiser,
    LinearPath,
    ProbabilityPath,
    VEPath,
    VPPath,
    ddim,
    dormand_prince,
    edm_sampler,
    euler,
    even,
    guide,
    heun,
    inpaint,
    karras,
    last,
    log_likelihood,
    midpoint,
    rk4,
)
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from mnistgen import Noise, UsageError

PATHS: list[ProbabilityPath] = [LinearPath(), VEPath(), VPPath()]
MEANS, WEIGHTS, STD = torch.tensor([-0.8, 0.1, 0.9]), torch.tensor([0.5, 0.2, 0.3]), 0.15


def ids(path: object) -> str:
    return type(path).__name__


def mixture(path: ProbabilityPath) -> Denoiser:
    """E[x | x_t] of independent coordinates from a mixture of normals, in float64 or as x_t is."""

    def denoiser(x_t: Tensor, t: Tensor) -> Tensor:
        shape = (-1, *[1] * (x_t.ndim - 1), 1)
        alpha, sigma = path.alpha(t).view(shape), path.sigma(t).view(shape)
        means, weights = MEANS.to(x_t), WEIGHTS.to(x_t)
        variance = alpha**2 * STD**2 + sigma**2
        far = x_t[..., None] - alpha * means
        likely = (weights.log() - far**2 / (2 * variance)).softmax(-1)
        data: Tensor = (likely * (means + alpha * STD**2 / variance * far)).sum(-1)
        return data

    return denoiser


def moments(x: Tensor) -> Tensor:
    return torch.stack([x.mean(), x.var(), (x**3).mean(), (x < -0.4).double().mean(), (x > 0.5).double().mean()])


def true_moments() -> Tensor:
    mean = float((WEIGHTS * MEANS).sum())
    variance = float((WEIGHTS * (MEANS**2 + STD**2)).sum()) - mean**2
    third = float((WEIGHTS * (MEANS**3 + 3 * MEANS * STD**2)).sum())
    below, above = (
        float((WEIGHTS * 0.5 * (1 + torch.erf((edge - MEANS) / STD / math.sqrt(2)))).sum()) for edge in (-0.4, 0.5)
    )
    return torch.tensor([mean, variance, third, below, 1 - above], dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_conversions_are_inverse_to_each_other(path: ProbabilityPath) -> None:
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(6, 1, 4, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    t = path.clean + (path.noisy - path.clean) * torch.linspace(0.03, 0.97, 6, dtype=torch.float64)
    x_t = path.at(x, eps, t)
    torch.testing.assert_close(path.noise(x_t, x, t), eps)
    torch.testing.assert_close(path.data_of_noise(x_t, eps, t), x)
    torch.testing.assert_close(path.data_of_velocity(x_t, path.velocity(x_t, x, t), t), x)
    torch.testing.assert_close(path.data_of_score(x_t, path.score(x_t, x, t), t), x)
    torch.testing.assert_close(path.score(x_t, x, t) * path.sigma(t).view(-1, 1, 1, 1), -eps)
    torch.testing.assert_close(path.denoiser(path.field(lambda x_t, t: x))(x_t, t), x)


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_the_velocity_is_the_slope_of_the_path(path: ProbabilityPath) -> None:
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(5, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    t = path.clean + (path.noisy - path.clean) * torch.tensor([0.1003, 0.2507, 0.5003, 0.7507, 0.9005]).double()
    h = 1e-5 * abs(path.noisy - path.clean)
    slope = (path.at(x, eps, t + h) - path.at(x, eps, t - h)) / (2 * h)
    torch.testing.assert_close(path.velocity(path.at(x, eps, t), x, t), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_the_score_is_the_gradient_of_the_log_density(path: ProbabilityPath) -> None:
    t = path.clean + (path.noisy - path.clean) * torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    x_t = torch.tensor([[-0.3], [0.4], [0.2]], dtype=torch.float64, requires_grad=True)
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    density = MixtureSameFamily(
        Categorical(WEIGHTS.double().expand(3, 3)),
        Normal(alpha * MEANS, (alpha**2 * STD**2 + sigma**2).sqrt().expand(3, 3)),
    )
    (expected,) = torch.autograd.grad(density.log_prob(x_t[:, 0]).sum(), x_t)
    torch.testing.assert_close(path.score(x_t.detach(), mixture(path)(x_t.detach(), t), t), expected)


def test_the_preserving_path_is_that_of_the_paper() -> None:
    path = VPPath()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    t = torch.arange(1, 1001, dtype=torch.float64)
    torch.testing.assert_close(path.alpha(t) ** 2, torch.cumprod(1 - betas, 0))
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones(1000, dtype=torch.float64))
    assert float(path.sigma(torch.zeros(1))) == 0.0


def swinging(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = x cos t, whose solution is x_0 e^(sin t)."""
    return x * torch.cos(t).view(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("adams", 2), ("rk4", 4)])
def test_order_of_convergence(name: str, order: int) -> None:
    x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    solver = (lambda *a: heun(*a, last_euler=False)) if name == "heun" else SOLVERS[name]
    errors = []
    for steps in (40, 80, 160):
        times = torch.linspace(0.2, 2.0, steps + 1, dtype=torch.float64)
        errors.append(float((last(solver(swinging, x, times)) - x * math.exp(math.sin(2) - math.sin(0.2))).abs().max()))
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_adams_keeps_its_order_on_uneven_times() -> None:
    x = torch.tensor([[1.0]], dtype=torch.float64)
    errors = []
    for steps in (40, 80, 160):
        times = 0.2 + 1.8 * torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 2
        errors.append(abs(float(last(SOLVERS["adams"](swinging, x, times)) - math.exp(math.sin(2) - math.sin(0.2)))))
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-8])
def test_the_adaptive_solver_is_as_exact_as_asked(tolerance: float) -> None:
    x = torch.tensor([[1.0], [-2.0], [0.01]], dtype=torch.float64)
    times = torch.tensor([0.0, 1.0, 8.0], dtype=torch.float64)
    found = list(dormand_prince(swinging, x, times, rtol=tolerance, atol=tolerance))
    for end, y in zip(times[1:].tolist(), found, strict=True):
        assert float((y - x * math.exp(math.sin(end))).abs().max()) < 30 * tolerance


def test_the_adaptive_solver_needs_fewer_steps_for_less_and_gives_up_in_words() -> None:
    calls = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return swinging(x, t)

    used = []
    for tolerance in (1e-2, 1e-6):
        calls.clear()
        last(dormand_prince(counted, torch.ones(1, 1), torch.tensor([0.0, 3.0]), rtol=tolerance, atol=tolerance))
        used.append(len(calls))
    assert used[0] < used[1]
    with pytest.raises(UsageError, match="rtol"):
        last(dormand_prince(swinging, torch.ones(1, 1).double(), torch.tensor([0.0, 9.0]), rtol=1e-9, max_steps=3))


@pytest.mark.parametrize("name", SOLVERS)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    """Images whose fields differ in speed by a factor of a thousand, together and alone."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x * 3 + t.view(-1, 1)) * x.abs()

    x = torch.tensor([[0.01], [3.0], [20.0]], dtype=torch.float64)
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    together = last(SOLVERS[name](field, x, times))
    alone = torch.cat([last(SOLVERS[name](field, row[None], times)) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def samplers() -> Iterator[
    tuple[str, ProbabilityPath, Callable[[Denoiser, ProbabilityPath, Tensor, Noise], Iterator[Tensor]]]
]:
    for path in PATHS:
        times = karras(60, highest=80.0) if isinstance(path, VEPath) else even(path, 100)
        for name, solver in SOLVERS.items():
            if name == "adaptive":
                ends = times[[0, -2]]  # a denoiser over the noise level has no velocity where there is none
                yield f"{ids(path)}-{name}", path, lambda d, p, x, n, ends=ends: dormand_prince(p.field(d), x, ends)
            elif name in ("midpoint", "euler", "heun", "adams"):
                yield f"{ids(path)}-{name}", path, lambda d, p, x, n, s=solver, times=times: s(p.field(d), x, times)
            else:  # of four evaluations a step, so that a third of the steps are exact enough
                some = times[:-1] if isinstance(path, VEPath) else times[:-1:3]
                yield f"{ids(path)}-{name}", path, lambda d, p, x, n, s=solver, t=some: s(p.field(d), x, t)
        for eta in (0.0, 1.0):
            if eta and isinstance(path, VEPath):
                times = karras(300)  # what is left of the variance shrinks with the steps
            yield (
                f"{ids(path)}-ddim-{eta}",
                path,
                lambda d, p, x, n, times=times, eta=eta: ddim(d, p, x, times, noise=n, eta=eta),
            )
    for churn in (0.0, 20.0):
        yield (
            f"churned-{churn}",
            VEPath(),
            lambda d, p, x, n, churn=churn: edm_sampler(d, x, karras(60), noise=n, s_churn=churn),
        )


def is_slow(name: str, path: ProbabilityPath) -> bool:
    """Every sampler on one path, and two on each of the others, are for the quick run."""
    return not isinstance(path, LinearPath) and not name.endswith(("heun", "ddim-0.0")) and "churned" not in name


@pytest.mark.parametrize(
    ("name", "path", "sampler"),
    [pytest.param(*s, id=s[0], marks=[pytest.mark.slow] * is_slow(*s[:2])) for s in samplers()],
)
def test_the_optimal_denoiser_reproduces_its_mixture(
    name: str, path: ProbabilityPath, sampler: Callable[[Denoiser, ProbabilityPath, Tensor, Noise], Iterator[Tensor]]
) -> None:
    n, width = 64, 500
    noise = Noise(1, range(n))
    start = noise.normal(width).double() * float(path.sigma(torch.tensor([path.noisy], dtype=torch.float64)))
    found = moments(last(sampler(mixture(path), path, start, noise)))
    # five standard errors of the widest of the moments, and what the steps leave
    torch.testing.assert_close(found, true_moments(), rtol=0, atol=5 * 0.7 / math.sqrt(n * width) + 0.012)


def test_ddim_is_the_formula_of_the_paper() -> None:
    path, denoiser = VPPath(), mixture(VPPath())
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bars = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)])
    times = torch.tensor([1000, 700, 310, 20, 0])
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for eta in (0.0, 0.4, 1.0):
        expected, fresh = x, Noise(5, range(3))
        for step, found in enumerate(ddim(denoiser, path, x, times.double(), noise=Noise(5, range(3)), eta=eta)):
            now, then = bars[times[step]], bars[times[step + 1]]
            data = denoiser(expected, torch.full((3,), float(times[step]), dtype=torch.float64))
            eps = (expected - now.sqrt() * data) / (1 - now).sqrt()
            tau = eta * ((1 - then) / (1 - now)).sqrt() * (1 - now / then).sqrt()
            expected = then.sqrt() * data + (1 - then - tau**2).clamp_min(0).sqrt() * eps
            if float(tau) > 0:
                expected = expected + tau * fresh.normal(5)
            torch.testing.assert_close(found, expected)


def test_ddim_on_the_straight_path_is_euler() -> None:
    path = LinearPath()
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)
    for a, b in zip(ddim(mixture(path), path, x, times), euler(path.field(mixture(path)), x, times), strict=True):
        torch.testing.assert_close(a, b)


def test_without_churn_karras_sampler_is_heun() -> None:
    path, x = VEPath(), 80 * torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    churned = list(edm_sampler(mixture(path), x, karras(12), noise=Noise(0, range(4))))
    plain = list(heun(path.field(mixture(path)), x, karras(12)))
    torch.testing.assert_close(torch.stack(churned), torch.stack(plain))


def test_the_noise_levels_are_the_paper_s() -> None:
    sigmas = karras(18)
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)] + [0.0]
    torch.testing.assert_close(sigmas, torch.tensor(expected, dtype=torch.float64))


def test_guidance_moves_away_from_the_weak_one_inside_the_interval() -> None:
    x, t = torch.zeros(3, 2), torch.tensor([0.1, 0.5, 0.9])
    guided = guide(lambda x, t: x + 1, lambda x, t: x - 1, 1.5, (0.2, 0.6))(x, t)
    assert guided[:, 0].tolist() == [1.0, 2.0, 1.0]

    def never(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("the weak denoiser is needed for nothing")

    assert torch.equal(guide(lambda x, t: x + 1, never, 1.0)(x, t), x + 1)
    assert torch.equal(guide(lambda x, t: x + 1, never, 3.0, (2.0, 3.0))(x, t), x + 1)


@pytest.mark.parametrize("path", [LinearPath(), VEPath()], ids=ids)
def test_inpainting_keeps_what_is_known(path: ProbabilityPath) -> None:
    known, mask = torch.tensor([[0.3, -0.5, 0.0]]).double(), torch.tensor([[1, 1, 0]])
    times = karras(20) if isinstance(path, VEPath) else even(path, 20)
    start = float(path.sigma(times[:1])) * torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    found = last(heun(path.field(inpaint(mixture(path), known, mask)), start, times))
    torch.testing.assert_close(found[:, :2], known[:, :2].expand(50, 2), rtol=0, atol=1e-6)
    free = last(heun(path.field(mixture(path)), start, times))
    torch.testing.assert_close(found[:, 2], free[:, 2])


@pytest.mark.parametrize("path", [LinearPath(), VEPath(noisy=20.0), VPPath()], ids=ids)
@pytest.mark.parametrize("probed", [False, True])
def test_the_likelihood_of_a_gaussian(path: ProbabilityPath, probed: bool) -> None:
    """x ~ N(m, s^2) in each of three coordinates; one velocity for each, so that one probe is exact, too."""
    m, s = 0.3, 0.6

    def denoiser(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        return m + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x_t - alpha * m)

    x = torch.tensor([[0.3, 0.3, 0.3], [1.0, -0.5, 0.2]], dtype=torch.float64)
    if isinstance(path, LinearPath):
        times = torch.linspace(1 - 1e-6, 0, 200, dtype=torch.float64)
    elif isinstance(path, VEPath):
        times = karras(200, lowest=1e-4, highest=20.0)[:-1].flip(0)
    else:
        times = 1e-3 + 999 * torch.linspace(0, 1, 400, dtype=torch.float64) ** 3  # the field is steep near the data
    probe = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]], dtype=torch.float64) if probed else None
    std = float(path.sigma(torch.tensor([path.noisy], dtype=torch.float64)))
    found = log_likelihood(path.field(denoiser), x, times, rk4, prior_std=std, probe=probe)
    expected = Normal(m, s).log_prob(x).sum(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_hutchinson_s_estimate_is_right_on_average() -> None:
    """A linear field whose matrix is not diagonal: the trace is 0.3, and a probe sees the rest, too."""
    matrix = torch.tensor([[0.2, 1.0], [-0.4, 0.1]], dtype=torch.float64)
    x = torch.tensor([[0.5, -1.0]], dtype=torch.float64).expand(4, 2)
    probes = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    times = torch.linspace(1, 0, 21, dtype=torch.float64)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return x @ matrix.T

    exact = log_likelihood(field, x, times)
    z = x @ torch.linalg.matrix_exp(-matrix).T
    expected = Normal(0.0, 1.0).log_prob(z).sum(1) - 0.3
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-6)
    probed = log_likelihood(field, x, times, probe=probes)
    assert float(probed.std()) > 0.1
    torch.testing.assert_close(probed.mean(), exact.mean())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="noise"):
        last(ddim(mixture(LinearPath()), LinearPath(), torch.zeros(1, 1), even(LinearPath(), 4), eta=0.5))
    with pytest.raises(UsageError, match="steps"):
        even(LinearPath(), 0)
    with pytest.raises(UsageError, match="steps"):
        karras(0)
    with pytest.raises(UsageError, match="two times"):
        last(midpoint(swinging, torch.zeros(1, 1), torch.zeros(1)))


def test_ddim_agrees_with_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True
    )
    scheduler.set_timesteps(20)
    path, denoiser = VPPath(), mixture(VPPath())
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # its step k is our time k + 1: alphas_cumprod begins with one step of noise
    whole = [int(k) + 1 for k in scheduler.timesteps]
    times = torch.tensor([*whole, whole[-1] - 50], dtype=torch.float64).clamp_min(0)
    expected = x
    for k, found in zip(scheduler.timesteps, ddim(denoiser, path, x, times), strict=True):
        t = torch.full((3,), float(k) + 1, dtype=torch.float64)
        eps = path.noise(expected, denoiser(expected, t), t)
        expected = scheduler.step(eps, int(k), expected).prev_sample
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
