"""Score identity distillation: what it begins as, where it rests, and its gradient where that is known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mnistgen_plugins.diffusion.flow import Flow, FlowConfig
from mnistgen_plugins.diffusion.sid import SiD, SiDConfig
from safetensors.torch import load_file
from torch import Tensor

from mnistgen import Loss, UsageError, fit, load, sample, save
from mnistgen.data import Dataset
from mnistgen.testing import synthetic_digits

SMALL: dict[str, Any] = {"width": 16, "blocks": 1}


@pytest.fixture
def flow(tmp_path: Path) -> Flow:
    """A flow of some training, and its checkpoint flow.safetensors."""
    torch.manual_seed(0)
    *_, step = fit(Flow(FlowConfig(**SMALL, ema_decay=0.0)), data(), steps=4, seed=0)
    assert isinstance(step.ema, Flow)
    save(tmp_path / "flow.safetensors", step.ema)
    return step.ema


def data() -> Dataset:
    return synthetic_digits(64)


def student(tmp_path: Path, **config: Any) -> SiD:
    model = SiD(SiDConfig(teacher=str(tmp_path / "flow.safetensors"), **SMALL, **config))
    model.prepare(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))  # nothing is learnt from the images
    return model


def test_it_begins_as_the_teachers_denoiser_of_noise(flow: Flow, tmp_path: Path) -> None:
    model = student(tmp_path, start_noise=3.0).eval()
    z, y = torch.randn(6, 1, 28, 28), torch.arange(6)
    expected = flow.eval().denoise(0.75 * z, torch.full((6,), 0.25), y)
    assert torch.allclose(model.generate(z, y), expected, atol=1e-5)
    assert torch.equal(model.generator.pixels.values, flow.pixels.values)
    assert model.data is None


def test_it_rests_where_the_critic_is_the_teacher(flow: Flow, tmp_path: Path) -> None:
    """Before the critic's first step there is no difference between the two, so neither a loss nor a gradient."""
    model = student(tmp_path).train()
    critic, generator = model.losses(torch.randn(5, 1, 28, 28), torch.arange(5))
    assert [critic.module, generator.module] == [model.critic, model.generator]
    generator.value.backward(inputs=list(model.generator.parameters()))
    assert float(generator.value.detach()) == pytest.approx(0, abs=1e-6)
    for parameter in model.generator.parameters():
        assert parameter.grad is None or float(parameter.grad.abs().max()) < 1e-5


def normal(x_t: Tensor, alpha: float, sigma: float, mean: float | Tensor, std: float) -> Tensor:
    """E[x | x_t] of independent normal pixels."""
    return (alpha * std**2 * x_t + sigma**2 * mean) / (alpha**2 * std**2 + sigma**2)


@pytest.mark.parametrize("alpha", [0.0, 1.2])
def test_the_loss_of_normal_images(alpha: float) -> None:
    """With the optimal critic, (1 - a) w times the Fisher divergence: the score identity."""
    torch.manual_seed(0)
    model, n = SiD(SiDConfig(alpha=alpha, **SMALL)), 4000
    t, of_data, of_samples = 0.4, (0.3, 0.7), (-0.2, 0.4)
    x = of_samples[0] + of_samples[1] * torch.randn(n, 1, 28, 28)
    x_t = t * x + (1 - t) * torch.randn_like(x)
    teacher, critic = (normal(x_t, t, 1 - t, *moments) for moments in (of_data, of_samples))
    weight = 1 / (teacher - x).abs().mean()
    divergence = (teacher - critic).square().mean()
    found = model.divergence(x, teacher, critic)
    assert float(found) == pytest.approx(float((1 - alpha) * weight * divergence), rel=0.02)


@pytest.mark.parametrize("alpha", [0.0, 1.2])
def test_the_gradient_of_a_normal_generator(alpha: float) -> None:
    """By the mean m of x = m + s z, for data of mean m_T: w c^2 (m - m_T), c = sigma^2 / (alpha^2 s^2 + sigma^2).

    That is half of the gradient of the divergence c^2 (m - m_T)^2, whatever a is, because both denoisers have the same
    slope.
    """
    torch.manual_seed(0)
    model = SiD(SiDConfig(alpha=alpha, **SMALL))
    t, std, target = 0.4, 0.5, 0.6
    mean = torch.tensor(-0.1, requires_grad=True)
    x = mean + std * torch.randn(50, 1, 28, 28)
    x_t = t * x + (1 - t) * torch.randn_like(x)
    teacher, critic = normal(x_t, t, 1 - t, target, std), normal(x_t, t, 1 - t, mean.detach(), std)
    model.divergence(x, teacher, critic).backward()
    c = (1 - t) ** 2 / (t**2 * std**2 + (1 - t) ** 2)
    weight = (1 / (teacher - x).detach().abs().mean((1, 2, 3))).mean()
    assert mean.grad is not None
    assert float(mean.grad) == pytest.approx(float(weight) * c**2 * (float(mean.detach()) - target), rel=1e-3)


def test_the_checkpoint_holds_the_generator_alone_and_resuming_is_exact(flow: Flow, tmp_path: Path) -> None:
    whole = [step.run.state_dict() for step in fit(student(tmp_path), data(), steps=4, seed=0)][-1]
    state = None
    for step in fit(student(tmp_path), data(), steps=4, seed=0):
        if step.number == 2:
            state = step.run.state_dict()
            break
    assert state is not None
    assert any(name.startswith("critic.") for name in state["model"])
    *_, step = fit(student(tmp_path), data(), steps=4, seed=0, state=state)
    for name, tensor in step.run.state_dict()["model"].items():
        assert torch.equal(tensor, whole["model"][name]), name
    assert isinstance(step.ema, SiD)
    save(tmp_path / "sid.safetensors", step.ema)
    assert {name.partition(".")[0] for name in load_file(tmp_path / "sid.safetensors")} == {"generator"}
    again = load(tmp_path / "sid.safetensors", model_class=SiD)
    assert isinstance(again, SiD)
    for name, tensor in again.generator.state_dict().items():
        assert torch.equal(tensor, step.ema.generator.state_dict()[name]), name
    assert sample(again, range(10), seed=1).shape == (10, 1, 28, 28)


def test_without_a_teacher_a_flow_is_trained_beside_it() -> None:
    model = SiD(SiDConfig(**SMALL)).train()
    model.prepare(data().images)
    assert model.data is not None
    assert torch.equal(model.generator.pixels.values, model.data.pixels.values)
    losses: list[Loss] = list(model.losses(torch.rand(4, 1, 28, 28) * 2 - 1, torch.arange(4)))
    assert [loss.module for loss in losses] == [model.data, model.critic, model.generator]
    assert set(model.optimizers()) == {model.data, model.critic, model.generator}


def test_a_teacher_of_another_kind_or_shape_is_refused(flow: Flow, tmp_path: Path) -> None:
    teacher = str(tmp_path / "flow.safetensors")
    with pytest.raises(UsageError, match="of width 16 and 1 blocks; this model has width 32"):
        SiD(SiDConfig(teacher=teacher, width=32)).prepare(data().images)
    with pytest.raises(UsageError, match="which is no Flow of 7 classes"):
        SiD(SiDConfig(teacher=teacher, **SMALL), num_classes=7).prepare(data().images)
