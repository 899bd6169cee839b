"""Diffusion and flow models beside mathematics: spaces of pixels, preconditioning, bounds and identities."""

import functools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mnistgen_plugins.diffusion import base
from mnistgen_plugins.diffusion.base import Diffusion, DiffusionConfig
from mnistgen_plugins.diffusion.ddpm import DDPM, DDPMConfig
from mnistgen_plugins.diffusion.edm import EDM, EDMConfig
from mnistgen_plugins.diffusion.flow import Flow, FlowConfig
from mnistgen_plugins.diffusion.meanflow import MeanFlow, MeanFlowConfig
from mnistgen_plugins.diffusion.pixels import PIXEL_STD, PixelSpace
from mnistgen_plugins.diffusion.solvers import SOLVERS
from tiny import strokes
from torch import Tensor

from mnistgen import Noise, UsageError, sample, save
from mnistgen.sampling import sample_trajectory

LEVELS = torch.arange(256) / 127.5 - 1
SMALL = {"width": 8, "blocks": 1}
MODELS = (
    (Flow, FlowConfig(**SMALL)),
    (EDM, EDMConfig(**SMALL)),
    (DDPM, DDPMConfig(**SMALL)),
    (MeanFlow, MeanFlowConfig(**SMALL)),
)


def made(cls: type[Diffusion], config: DiffusionConfig) -> Diffusion:
    """A model in eval mode whose network does something, prepared for strokes."""
    torch.manual_seed(0)
    model = cls(config)
    model.prepare(strokes(200)[0])
    for parameter in model.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.mark.parametrize("ranked", [False, True])
def test_grey_levels_come_back_from_their_numbers(ranked: bool) -> None:
    space = PixelSpace(ranked=ranked)
    assert torch.equal(space.decode(space.encode(LEVELS)), LEVELS)
    images, _ = strokes(500)
    space.prepare(images)
    assert torch.equal(space.decode(space.encode(LEVELS)), LEVELS)
    assert bool((space.values.diff() > 0).all())
    assert bool((space.edges.diff() >= 0).all())
    numbers = space.encode(images.float() / 127.5 - 1)
    assert float(numbers.mean()) == pytest.approx(0, abs=1e-3)
    assert float(numbers.std()) == pytest.approx(PIXEL_STD, abs=1e-3)
    assert bool((space.decode(torch.tensor([-1e9, 1e9])) == torch.tensor([-1.0, 1.0])).all())


def test_ink_of_even_rank_has_the_frequencies_of_the_training_images() -> None:
    images, _ = strokes(500)
    space = PixelSpace(ranked=True)
    space.prepare(images)
    lowest, highest = space.edges[0], 2 * space.values[-1] - space.edges[-1]  # the end of the last bin
    even = torch.linspace(float(lowest), float(highest), 200_001)[:-1] + (highest - lowest) / 400_000
    levels = ((space.decode(even) + 1) * 127.5).round().long()
    counts = torch.bincount(images.flatten().long(), minlength=256).double()
    ink = (counts[1:] + 1) / (counts[1:] + 1).sum()
    assert torch.allclose(torch.bincount(levels, minlength=256)[1:] / 200_000, ink.float(), atol=2e-5)


def test_calibrated_edges_give_a_models_numbers_the_frequencies_of_the_training_images() -> None:
    images, _ = strokes(500)
    space = PixelSpace(ranked=True)
    space.prepare(images)
    u = 0.9 * space.encode(images.float() / 127.5 - 1) + 0.1 * torch.randn(images.shape).abs() + 0.05  # too light
    counts = torch.bincount(images.flatten().long(), minlength=256)

    def apart() -> int:
        levels = ((space.decode(u) + 1) * 127.5).round().long().flatten()
        return int((torch.bincount(levels, minlength=256) - counts).abs().sum())

    before = apart()
    space.calibrate(u, images)
    assert apart() < 0.001 * u.numel() < before


def test_black_has_a_wide_bin() -> None:
    images, _ = strokes(500)
    for ranked, width in ((False, 0.05), (True, 0.15)):
        space = PixelSpace(ranked=ranked)
        space.prepare(images)
        assert (float(space.edges[0] - space.values[0]) > 0.075) == ranked
        assert bool((space.decode(space.values[:1] + 0.5 * width) == -1).all()) == ranked


def test_levels_of_noisy_numbers() -> None:
    """Probabilities that sum to one, nearest levels without noise, frequencies without information."""
    images, _ = strokes(500)
    space = PixelSpace(ranked=True)
    space.prepare(images)
    u = torch.randn(7, 1)
    probabilities = space.log_prob(LEVELS.expand(7, -1), u.expand(-1, 256), 0.3).exp()
    assert torch.allclose(probabilities.sum(1), torch.ones(7), atol=1e-5)
    assert torch.allclose(space.log_prob(LEVELS, torch.zeros(256), 1e6), space.log_frequency, atol=1e-4)
    assert bool((space.log_prob(LEVELS, space.encode(LEVELS), 1e-6) > -1e-3).all())
    by_hand = space.log_frequency.exp() * torch.distributions.Normal(space.values, 0.3).log_prob(u).exp()
    assert torch.allclose(probabilities, by_hand / by_hand.sum(1, keepdim=True), atol=1e-5)


def test_the_denoiser_that_edm_trains_has_unit_variances() -> None:
    """Karras et al. 2022, B.6: what the network sees and what it is to give have variance 1 at every noise level."""
    model = made(EDM, EDMConfig(**SMALL))
    seen: list[Tensor] = []
    given = torch.randn(64, 1, 28, 28)

    def network(x: Tensor, c: Tensor, y: Tensor) -> Tensor:
        seen.append(x)
        return given

    model.evaluate = network  # type: ignore[method-assign]
    x, eps = PIXEL_STD * torch.randn(64, 1, 28, 28), torch.randn(64, 1, 28, 28)
    y = torch.zeros(64, dtype=torch.int64)
    for sigma in (0.01, 0.3, 1.0, 20.0):
        t = torch.full((64,), sigma)
        x_sigma = x + sigma * eps
        data = model.denoise(x_sigma, t, y)
        assert float(seen[-1].std()) == pytest.approx(1, abs=0.02)
        # D = x where the network gives its target, (x - c_skip x_sigma) / c_out
        total = PIXEL_STD**2 + sigma**2
        c_skip, c_out = PIXEL_STD**2 / total, PIXEL_STD * sigma / math.sqrt(total)
        assert torch.allclose(data, c_skip * x_sigma + c_out * given, atol=1e-5)
        target = (x - c_skip * x_sigma) / c_out
        assert float(target.std()) == pytest.approx(1, abs=0.02)


class Independent(Flow):
    """The exact denoiser of pixels that are independent, with the frequencies of the images it is prepared for."""

    def denoise(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        alpha, sigma = (part.view(-1, 1, 1, 1, 1) for part in (self.path.alpha(t), self.path.sigma(t).clamp_min(1e-6)))
        values = self.pixels.values
        logits = self.pixels.log_frequency - 0.5 * ((x_t[..., None] - alpha * values) / sigma).square()
        return (logits.softmax(-1) * values).sum(-1)


@pytest.mark.slow
def test_the_bound_on_grey_levels_of_known_probability() -> None:
    torch.manual_seed(0)
    images = torch.tensor([0, 80, 250])[torch.multinomial(torch.tensor([0.6, 0.1, 0.3]), 2 * 784, True)]
    images = images.view(2, 1, 28, 28).to(torch.uint8)
    for pixels in ("plain", "ranked"):
        model = Independent(FlowConfig(pixels=pixels, **SMALL)).eval()
        model.prepare(images)
        exact = model.pixels.log_frequency[images.long()].flatten(1).sum(1)
        x, y = images.float() / 127.5 - 1, torch.zeros(2, dtype=torch.int64)
        bound = torch.stack([model.log_prob(x, y) for _ in range(4)]).mean(0)
        assert bool((bound < exact + 5).all()), pixels
        assert bool((bound > 1.05 * exact).all()), pixels


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        pytest.param(cls, config, marks=[pytest.mark.slow] * (cls is not Flow), id=cls.__name__)
        for cls, config in MODELS
    ],
)
def test_images_lead_to_noise_and_back(
    cls: type[Diffusion], config: DiffusionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """decode(encode(x)) is x but for the error of the solver, in the space of pixels."""
    monkeypatch.setattr(base, "ODE_STEPS", 150)
    if cls is MeanFlow:
        pytest.skip("MeanFlow decodes in one step of the average velocity, which is learnt")
    model = made(cls, config)
    images, y = strokes(3, seed=4)
    x = images.float() / 127.5 - 1
    with torch.no_grad():
        z = model.encode(x, y)
        assert z.shape == x.shape
        back = model.decode(z, y)
    wrong = (model.pixels.encode(back) - model.pixels.encode(x)).abs()
    assert float(wrong.mean()) < 0.1


@pytest.mark.parametrize(("cls", "config"), MODELS)
def test_guidance_by_the_model_itself_changes_nothing(
    cls: type[Diffusion], config: DiffusionConfig, tmp_path: Path
) -> None:
    if cls is MeanFlow:
        pytest.skip("MeanFlow has no guidance")
    model = made(cls, replace(config, width=16))  # wide enough that untrained classes differ
    save(tmp_path / "same.safetensors", model)
    plain = sample(model, [0, 1, 2], steps=3)
    same = sample(
        model, [0, 1, 2], steps=3, guidance_scale=100.0, autoguidance_model=str(tmp_path / "same.safetensors")
    )
    assert torch.equal(plain, same)
    by_class = sample(model, [0, 1, 2], steps=3, guidance_scale=100.0)
    assert (plain.int() - by_class.int()).abs().float().mean() > 1
    outside = {"guidance_start": 2000.0, "guidance_end": 3000.0}
    assert torch.equal(plain, sample(model, [0, 1, 2], steps=3, guidance_scale=3.0, **outside))


def test_guidance_by_another_kind_of_model(tmp_path: Path) -> None:
    model = made(*MODELS[0])
    save(tmp_path / "edm.safetensors", made(*MODELS[1]))
    with pytest.raises(UsageError, match=r"edm\.safetensors, which is no Flow of 10 classes"):
        sample(model, [0], guidance_scale=2.0, autoguidance_model=str(tmp_path / "edm.safetensors"))
    save(tmp_path / "plain.safetensors", made(Flow, FlowConfig(pixels="plain", **SMALL)))
    with pytest.raises(UsageError, match="space of pixels is another"):
        sample(model, [0], guidance_scale=2.0, autoguidance_model=str(tmp_path / "plain.safetensors"))


@pytest.mark.parametrize(("cls", "config"), MODELS)
def test_one_frame_a_step(cls: type[Diffusion], config: DiffusionConfig) -> None:
    model = made(cls, config)
    assert len(sample_trajectory(model, [1, 2], steps=5)) == 5
    for steps in (0, -1):
        with pytest.raises(UsageError, match=f"steps is {steps}; it must be"):
            sample(model, [1], steps=steps)


@pytest.mark.parametrize(
    "solver",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "adaptive")) for name in SOLVERS if name != "heun"],
)
def test_every_solver_goes_the_way_of_a_flow_to_its_end(solver: str) -> None:
    """Those too that ask for the velocity at the data, where a denoiser has none."""
    model, images = by_heun()
    assert float((sample(model, range(3), seed=0, solver=solver, steps=64).float() - images).abs().mean()) < 1


@functools.cache
def by_heun() -> tuple[Diffusion, Tensor]:
    model = made(Flow, FlowConfig(pixels="plain", **SMALL))
    return model, sample(model, range(3), seed=0, solver="heun", steps=64).float()


def test_labels_are_dropped_in_training_only() -> None:
    model = made(Flow, FlowConfig(label_dropout=0.3, **SMALL))
    y = torch.arange(4000) % 10
    assert torch.equal(model.some_labels(y), torch.nn.functional.one_hot(y, 10).float())
    told = model.train().some_labels(y)
    kept = told.sum(1) == 1
    assert torch.equal(told[kept].argmax(1), y[kept])
    assert bool((told[~kept] == 0).all())
    assert float(kept.float().mean()) == pytest.approx(0.7, abs=0.03)


def test_the_loss_of_a_flow_whose_network_is_the_answer() -> None:
    """The velocity's error is zero where the network knows x and eps, and the variance of both where it is zero."""
    model = Flow(FlowConfig(learnt_guidance=1.0, middle_guidance=1.0, **SMALL)).train()
    images, y = strokes(64)
    model.prepare(images)
    x = images.float() / 127.5 - 1
    (loss,) = model.losses(x, y)  # the network begins at zero
    assert float(loss.value.detach()) == pytest.approx(1 + PIXEL_STD**2, abs=0.1)
    u = model.pixels.encode(x)

    def network(x_t: Tensor, c: Tensor, y: Tensor) -> Tensor:
        t = ((c + 1) / 2)[:, :, None, None]
        return u - (x_t - t * u) / (1 - t)

    model.evaluate = network  # type: ignore[method-assign]
    (loss,) = model.losses(x, y)
    assert float(loss.value.detach()) < 1e-6


@pytest.mark.parametrize(("cls", "config"), MODELS)
def test_guidance_is_learnt_in_training_only(cls: type[Diffusion], config: DiffusionConfig) -> None:
    """On average over the images, (1 - 1 / w) (f(y) - f(no class)), so that f(y) settles at w f0(y) + (1 - w) f0(0)."""
    model = made(cls, replace(config, learnt_guidance=1.6, middle_guidance=1.0, guided_share=0.25)).train()
    x_t, t, y = torch.randn(10, 1, 28, 28), torch.rand(10), torch.eye(10)

    def predict(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        assert len(x_t) == len(t) == len(y) == 6  # a quarter of ten, rounded up, with its class and without
        return x_t + (1 + y.sum(1) * t)[:, None, None, None]

    correction = model.guidance_correction(predict, x_t, t, y)
    assert torch.allclose(correction[:3], ((1 - 1 / 1.6) * 10 / 3 * t[:3])[:, None, None, None].expand(3, 1, 28, 28))
    assert not bool(correction[3:].any())
    assert bool((y == torch.eye(10)).all())
    assert not bool(model.guidance_correction(predict, x_t, t, torch.zeros(10, 10)).any())  # class not told
    assert not bool(model.eval().guidance_correction(predict, x_t, t, y).any())
    plain = made(cls, replace(config, learnt_guidance=1.0, middle_guidance=1.0)).train()
    assert not bool(plain.guidance_correction(predict, x_t, t, y).any())


@pytest.mark.parametrize(("cls", "config"), MODELS)
def test_more_guidance_is_learnt_in_the_middle(cls: type[Diffusion], config: DiffusionConfig) -> None:
    model = made(cls, replace(config, learnt_guidance=1.25, middle_guidance=2.0, guided_share=0.5)).train()
    times = model.times(200)[:-1].float()
    strength = model.path.sigma(times) / model.path.alpha(times)
    wanted = torch.tensor([1.0, 1.3, 2.3, 3.0])  # sigma / alpha: outside, inside, inside, outside of [1.2, 2.4]
    t = times[(strength - wanted[:, None]).abs().argmin(1)].repeat(2)

    def predict(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return y.sum(1)[:, None, None, None].expand(-1, 1, 28, 28)

    correction = model.guidance_correction(predict, torch.zeros(8, 1, 28, 28), t, torch.eye(10)[:8])
    assert torch.allclose(correction[:4, 0, 0, 0], 2 * (1 - 1 / torch.tensor([1.25, 2.0, 2.0, 1.25])))


def test_what_a_flow_learns_with_guidance_is_guided() -> None:
    """A field that is free at each class, trained to the end, is that of guidance by w of the one without."""
    w, share = 1.6, 0.25
    velocities = {"class": torch.tensor(2.0), "none": torch.tensor(0.5)}  # f0
    learnt = torch.tensor([0.0, 0.0], requires_grad=True)  # f(y), f(no class)
    model = made(Flow, FlowConfig(learnt_guidance=w, middle_guidance=w, guided_share=share, **SMALL)).train()
    y = torch.eye(10)[:8] * (torch.arange(8) % 4 > 0)[:, None]

    def predict(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.where(y.sum(1) > 0, learnt[0], learnt[1])[:, None, None, None].expand(-1, 1, 28, 28)

    optimizer = torch.optim.SGD([learnt], lr=0.2)
    x_t, t = torch.zeros(8, 1, 28, 28), torch.rand(8)
    target = torch.where(y.sum(1) > 0, velocities["class"], velocities["none"])[:, None, None, None]
    for step in range(600):
        order = torch.arange(8).roll(step)  # each image is in the share in turn
        error = predict(x_t, t, y[order]) - target[order] - model.guidance_correction(predict, x_t, t, y[order])
        optimizer.zero_grad()
        error.square().mean().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * (1 - step / 600)
        optimizer.step()
    assert float(learnt[1].detach()) == pytest.approx(0.5, abs=1e-2)
    assert float(learnt[0].detach()) == pytest.approx(w * 2.0 + (1 - w) * 0.5, abs=2e-2)


class Linear(MeanFlow):
    """The average velocity of dz/dt = a z: from t back to r, z e^(-a (t - r)) is left."""

    rate = 0.7

    def average_velocity(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor, network: object = None) -> Tensor:
        span = (t - r).view(-1, 1, 1, 1)
        # (1 - e^(-a s)) / s, which is a at s = 0
        safe = torch.where(span == 0, torch.ones_like(span), span)
        return z * torch.where(span == 0, torch.full_like(span, self.rate), -torch.expm1(-self.rate * safe) / safe)

    def velocity(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.rate * z


def test_the_identity_of_meanflow_on_a_linear_field() -> None:
    model = Linear(MeanFlowConfig(**SMALL))
    z, y = torch.randn(5, 1, 28, 28), torch.zeros(5, dtype=torch.int64)
    r, t = torch.tensor([0.1, 0.0, 0.5, 0.3, 0.2]), torch.tensor([0.9, 1.0, 0.5, 0.4, 0.2])
    target = model.target(z, model.rate * z, r, t, y)
    assert torch.allclose(target, model.average_velocity(z, r, t, y), atol=1e-5)
    # and not for a velocity that is another
    assert not torch.allclose(model.target(z, 0.5 * model.rate * z, r, t, y)[0], target[0], atol=1e-2)


@pytest.mark.parametrize(("teacher", "order"), [("", 2), ("a flow", 3)])
def test_the_finite_identity_of_meanflow_on_a_linear_field(teacher: str, order: int) -> None:
    """One step of Euler over a part h of the way leaves an error of h^2; one of the midpoint rule, h^3."""
    z, y = torch.randn(5, 1, 28, 28), torch.zeros(5, dtype=torch.int64)
    r, t = torch.tensor([0.1, 0.0, 0.5, 0.3, 0.2]), torch.tensor([0.9, 1.0, 0.5, 0.7, 0.2])
    errors = []
    for part in (0.2, 0.1):
        model = Linear(MeanFlowConfig(part=part, **SMALL))
        object.__setattr__(model.config, "teacher", teacher)
        exact = model.average_velocity(z, r, t, y)
        error = (model.followed(z, model.rate * z, r, t, y) - exact).flatten(1).norm(dim=1)
        assert bool((error[r == t] < 1e-5).all())
        errors.append(error[r < t])
    assert torch.allclose((errors[0] / errors[1]).log2(), torch.full((3,), float(order)), atol=0.25)


def test_meanflow_begins_as_its_teacher(tmp_path: Path) -> None:
    teacher = made(Flow, FlowConfig(**SMALL))
    save(tmp_path / "flow.safetensors", teacher)
    model = MeanFlow(MeanFlowConfig(teacher=str(tmp_path / "flow.safetensors"), **SMALL))
    model.prepare(strokes(50, seed=9)[0])
    assert torch.equal(model.pixels.values, teacher.pixels.values)
    x, t, y = torch.randn(3, 1, 28, 28), torch.tensor([0.2, 0.5, 0.9]), torch.tensor([1, 2, 3])
    with torch.no_grad():
        for r in (t, 0.1 * t):
            velocity = -model.eval().average_velocity(x, r, t, y)
            assert torch.allclose(velocity, teacher.velocity(x, 1 - t, y), atol=2e-2)  # bfloat16, where it is fast
        assert torch.allclose(-model.velocity(x, t, y), teacher.velocity(x, 1 - t, y))
    wide = MeanFlow(MeanFlowConfig(teacher=str(tmp_path / "flow.safetensors"), width=32))
    with pytest.raises(UsageError, match="of width 8 and 1 blocks; this model has width 32"):
        wide.prepare(strokes(50)[0])
    save(tmp_path / "edm.safetensors", made(*MODELS[1]))
    with pytest.raises(UsageError, match="which is no Flow of 10 classes"):
        MeanFlow(MeanFlowConfig(teacher=str(tmp_path / "edm.safetensors"), **SMALL)).prepare(strokes(50)[0])


@pytest.mark.parametrize("part", [0.0, 0.1])
def test_meanflow_trains_with_a_teacher(tmp_path: Path, part: float) -> None:
    save(tmp_path / "flow.safetensors", made(Flow, FlowConfig(**SMALL)))
    model = MeanFlow(MeanFlowConfig(teacher=str(tmp_path / "flow.safetensors"), part=part, **SMALL)).train()
    images, y = strokes(8)
    model.prepare(images)
    (loss,) = model.losses(images.float() / 127.5 - 1, y)
    loss.value.backward()  # type: ignore[no-untyped-call]
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert all(p.grad is None for p in model.teacher().parameters())


def test_leaps_of_any_number_are_exact_on_a_linear_field() -> None:
    model = Linear(MeanFlowConfig(**SMALL))
    z, y = torch.randn(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64)
    for steps in (1, 2, 7):
        *_, end = model.leaps(z, y, steps)
        assert torch.allclose(end, z * math.exp(-model.rate), atol=1e-5)


def test_spans_run_forwards_and_some_are_instants() -> None:
    model = MeanFlow(MeanFlowConfig(instant=0.6, **SMALL))
    torch.manual_seed(0)
    r, t = model.spans(20_000, torch.device("cpu"))
    assert bool((r <= t).all())
    assert float((r == t).float().mean()) == pytest.approx(0.6, abs=0.02)


def test_ancestral_sampling_draws_noise_on_the_way() -> None:
    model = made(*MODELS[2])
    images, y = torch.zeros(2, 1, 28, 28), torch.tensor([3, 4])
    assert images.shape == model.sample(y, noise=Noise(0, range(2)), steps=4).shape
    fixed = sample(model, [3, 4], steps=4)
    assert torch.equal(fixed, sample(model, [3, 4], steps=4, eta=0.0))
    assert not torch.equal(fixed, sample(model, [3, 4], steps=4, eta=1.0))
    with pytest.raises(UsageError, match="from 1 to 1000"):
        sample(model, [3], steps=1001)
