"""The VAE with a flow-matching prior: its integral, its losses and its codes."""

import math

import pytest
import torch
from mnistgen_plugins.vae.latent_flow_vae import LatentFlowVAE, LatentFlowVAEConfig, Velocity, integrate
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from mnistgen import UsageError


def make() -> LatentFlowVAE:
    torch.manual_seed(0)
    model = LatentFlowVAE(LatentFlowVAEConfig(width=8, latent_dim=4, prior_width=32, prior_blocks=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


class Linear(nn.Module):
    """dz/dt = a z + b t."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.a * z + self.b * t


@pytest.mark.parametrize(("a", "b"), [(0.7, 0.0), (-1.5, 2.0)])
def test_the_integral_of_a_linear_field_has_order_two(a: float, b: float) -> None:
    z = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    exact = (z + b / a**2) * math.exp(a) - b / a - b / a**2  # the solution at t = 1
    errors = [(integrate(Linear(a, b), z, torch.zeros(2), steps=n) - exact).abs().max().item() for n in (20, 40, 80)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)
    back = integrate(Linear(a, b), exact, torch.zeros(2), steps=80, backwards=True)
    torch.testing.assert_close(back, z, rtol=0, atol=5 * errors[2])


def test_no_step_is_refused() -> None:
    with pytest.raises(UsageError, match="steps"):
        integrate(Linear(1, 0), torch.zeros(1, 1), torch.zeros(1), steps=0)


def test_the_kl_is_that_of_two_normal_distributions() -> None:
    model = make()
    x, y = torch.rand(3, 1, 28, 28).mul(255).round() / 127.5 - 1, torch.arange(3)
    _, _, kl = model.autoencoder.terms(x, y)
    mean, log_std = model.autoencoder.posterior(x, y)
    torch.testing.assert_close(kl, kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum(1))


def test_the_priors_loss_is_zero_for_the_velocity_of_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes that are all at one point c have v(z_t, t) = (c - z_t) / (1 - t) = c - u, with no error left."""
    model, point = make(), 1.5
    monkeypatch.setattr(
        model.autoencoder, "terms", lambda x, y: (torch.full((len(x), 4), point), torch.zeros(len(x)), torch.zeros(1))
    )
    model.prior.forward = lambda z, t, y: (point - z) / (1 - t)  # type: ignore[method-assign]
    *_, prior = model.losses(torch.zeros(16, 1, 28, 28), torch.arange(16) % 10)
    assert float(prior.value) == pytest.approx(0, abs=1e-6)


def test_a_trained_prior_has_the_moments_of_its_codes() -> None:
    """Two classes of normal codes in two dimensions, learnt in some seconds and drawn again."""
    torch.manual_seed(0)
    prior = Velocity(2, 64, 2, num_classes=2)
    optimizer = torch.optim.Adam(prior.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 600)
    means, stds = torch.tensor([[2.0, -1.0], [-1.0, 1.0]]), torch.tensor([[0.5, 1.0], [1.5, 0.3]])
    for _ in range(600):
        y = torch.randint(2, (512,))
        z, u, t = means[y] + stds[y] * torch.randn(512, 2), torch.randn(512, 2), torch.rand(512, 1)
        loss = (prior(torch.lerp(u, z, t), t, y) - (z - u)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        for label in (0, 1):
            drawn = integrate(prior, torch.randn(4000, 2), torch.full((4000,), label), steps=16)
            torch.testing.assert_close(drawn.mean(0), means[label], rtol=0, atol=0.15)
            torch.testing.assert_close(drawn.std(0), stds[label], rtol=0.2, atol=0)


def test_encode_and_decode_are_the_same_way_there_and_back() -> None:
    model = make()
    x, y = torch.rand(5, 1, 28, 28).mul(255).round() / 127.5 - 1, torch.arange(5)
    with torch.no_grad():
        mean, _ = model.autoencoder.posterior(x, y)
        torch.testing.assert_close(
            model.decode(model.encode(x, y), y), model.autoencoder.image(mean, y), rtol=0, atol=1e-3
        )


def test_the_validation_loss_is_the_sum_of_both() -> None:
    model = make()
    x, y = torch.rand(4, 1, 28, 28).mul(255).round() / 127.5 - 1, torch.arange(4)
    torch.manual_seed(1)
    losses = [loss.value for loss in model.losses(x, y)]
    torch.manual_seed(1)
    torch.testing.assert_close(model.validation_loss(x, y), losses[0] + losses[1])
