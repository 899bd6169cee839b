"""The GANs: their losses and penalties against closed forms, and their convergence where theory knows it."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from mnistgen_plugins.gan.dcgan import DCGAN, DCGANConfig
from mnistgen_plugins.gan.r3gan import R3GAN, R3GANConfig
from mnistgen_plugins.gan.wgan_gp import WGANGP, WGANGPConfig
from torch import Tensor, nn

from mnistgen import GenerativeModel, Loss, Noise, UsageError
from mnistgen.nn import Projection, ResidualGenerator, score_and_gradient

SMALL = {"width": 8, "latent_dim": 4}


def make(name: str, **changes: object) -> GenerativeModel:
    torch.manual_seed(0)
    cls, config = {"dcgan": (DCGAN, DCGANConfig), "wgan_gp": (WGANGP, WGANGPConfig), "r3gan": (R3GAN, R3GANConfig)}[
        name
    ]
    return cls(config(**{**SMALL, **changes}))  # type: ignore[arg-type]


class Slope(nn.Module):
    """D(x, y) = w.x, the same gradient w everywhere."""

    def __init__(self, norm: float) -> None:
        super().__init__()
        w = torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(0))
        self.w = nn.Parameter(norm * w / w.norm())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x * self.w).sum((1, 2, 3))


class Everywhere(nn.Module):
    """G(z, y): one learned grey value, whatever z is."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.value.expand(len(y), 1, 28, 28)


def test_the_gradient_of_a_quadratic_and_what_it_does_to_the_parameters() -> None:
    a = nn.Parameter(torch.tensor(3.0))

    class Quadratic(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return a * x.square().sum((1, 2, 3))

    x = torch.randn(2, 1, 28, 28)
    score, gradient = score_and_gradient(Quadratic(), x, torch.zeros(2))
    torch.testing.assert_close(score, 3 * x.square().sum((1, 2, 3)))
    torch.testing.assert_close(gradient, 6 * x)
    gradient.square().sum().backward()  # sum (2 a x)^2, whose derivative by a is 8 a sum x^2
    torch.testing.assert_close(a.grad, 24 * x.square().sum())


def test_r3gan_losses_are_the_papers_formula() -> None:
    model = make("r3gan", gamma=3.0, gamma_end=3.0)
    assert isinstance(model, R3GAN)
    model.discriminator, model.generator = Slope(2.0), Everywhere(0.25)  # type: ignore[assignment]
    x, y = torch.randn(5, 1, 28, 28), torch.arange(5)
    critic, generator = model.losses(x, y)
    real, fake = model.discriminator(x, y), model.discriminator(torch.full_like(x, 0.25), y)
    torch.testing.assert_close(critic.value, F.softplus(fake - real).mean() + 3 / 2 * (4 + 4))
    torch.testing.assert_close(generator.value, F.softplus(real - fake).mean())


def test_gamma_falls_by_a_half_cosine() -> None:
    model = make("r3gan", gamma=1.0, gamma_end=0.2, gamma_steps=100)
    assert isinstance(model, R3GAN)
    expected = {0: 1.0, 50: 0.6, 100: 0.2, 1000: 0.2}
    for step, gamma in expected.items():
        model.count.fill_(step)
        assert float(model.gamma()) == pytest.approx(gamma)


@pytest.mark.parametrize(("gamma", "converges"), [(1.0, True), pytest.param(0.0, False, marks=pytest.mark.slow)])
def test_the_dirac_gan_converges_with_the_penalties_and_not_without(gamma: float, converges: bool) -> None:
    """Real images at 0, generated ones at theta: theta -> 0 only with R1 and R2 (Mescheder et al. 2018).

    Without a penalty the two parts go round each other for ever.
    """
    model = make("r3gan", gamma=gamma, gamma_end=gamma)
    assert isinstance(model, R3GAN)
    model.generator = Everywhere(1 / 28)  # type: ignore[assignment]
    model.discriminator = Uniform()  # type: ignore[assignment]
    parts = {  # theta is 28 times the pixel, in which a step is 28^2 times as far
        model.discriminator: torch.optim.SGD(model.discriminator.parameters(), 0.1),
        model.generator: torch.optim.SGD(model.generator.parameters(), 0.1 / 28**2),
    }
    x, y = torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64)
    for _ in range(1000):
        for loss in model.losses(x, y):
            parts[loss.module].zero_grad()
            loss.value.backward(inputs=list(loss.module.parameters()))
            parts[loss.module].step()
    theta = 28 * model.generator.value.detach().abs()  # type: ignore[union-attr]
    assert bool(theta < 1e-2) == converges


class Uniform(nn.Module):
    """D(x, y) = psi times the mean pixel, scaled so that the gradient's norm is |psi|."""

    def __init__(self) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.psi * x.sum((1, 2, 3)) / 28


def test_wgan_gp_penalty_is_zero_at_slope_one_and_else_the_square_of_the_difference() -> None:
    model = make("wgan_gp")
    assert isinstance(model, WGANGP)
    real, fake, y = torch.randn(4, 1, 28, 28), torch.randn(4, 1, 28, 28), torch.arange(4)
    for norm, penalty in ((1.0, 0.0), (3.0, 4.0)):
        model.critic = Slope(norm)  # type: ignore[assignment]
        assert float(model.penalty(real, fake, y).detach()) == pytest.approx(penalty, abs=1e-5)


def test_wgan_gp_gives_each_critic_step_images_of_its_own() -> None:
    model = make("wgan_gp", critic_steps=3)
    assert isinstance(model, WGANGP)
    seen: list[Tensor] = []

    class Watching(Slope):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            seen.append(y)
            return super().forward(x, y)

    model.critic = Watching(1.0)  # type: ignore[assignment]
    y = torch.arange(9)
    losses = list(model.losses(torch.zeros(9, 1, 28, 28), y))
    assert [loss.module is model.critic for loss in losses] == [True, True, True, False]
    assert torch.equal(torch.cat([*seen[0:9:3]]), y)  # the real images of the three steps


def test_wgan_gp_loss_is_minus_the_distance_of_the_means() -> None:
    model = make("wgan_gp", critic_steps=1, penalty=0.0)
    assert isinstance(model, WGANGP)
    model.critic, model.generator = Slope(1.0), Everywhere(0.5)  # type: ignore[assignment]
    x, y = torch.randn(6, 1, 28, 28), torch.arange(6)
    critic, generator = model.losses(x, y)
    real, fake = model.critic(x, y).mean(), model.critic(torch.full_like(x, 0.5), y).mean()
    torch.testing.assert_close(critic.value, fake - real)
    torch.testing.assert_close(critic.logs["wasserstein"], real - fake)
    torch.testing.assert_close(generator.value, -fake)


def test_dcgan_losses_at_a_discriminator_that_knows_nothing() -> None:
    model = make("dcgan")
    assert isinstance(model, DCGAN)
    model.discriminator = Slope(0.0)  # type: ignore[assignment]
    values = [float(loss.value.detach()) for loss in model.losses(torch.randn(4, 1, 28, 28), torch.arange(4))]
    assert values == pytest.approx([2 * math.log(2), math.log(2)])


def test_dcgan_takes_its_penalty_every_few_steps_with_as_much_more_weight() -> None:
    """A slope of norm 3 has a squared gradient of 9 everywhere; eval mode does not count."""
    x, y = torch.zeros(4, 1, 28, 28), torch.arange(4)

    def penalties(**changes: object) -> list[float]:
        model = make("dcgan", **changes).train()
        assert isinstance(model, DCGAN)
        model.discriminator, model.generator = Slope(3.0), Everywhere(0.0)  # type: ignore[assignment]
        list(model.eval().losses(x, y))
        model.train()
        return [float(next(iter(model.losses(x, y))).value.detach()) - 2 * math.log(2) for _ in range(6)]

    assert penalties(gamma=0.5, r1_every=3) == pytest.approx([6.75, 0, 0, 6.75, 0, 0], abs=1e-5)
    assert penalties(gamma=0.5, r1_every=1) == pytest.approx([2.25] * 6, abs=1e-5)
    assert penalties(gamma=0.0) == pytest.approx([0.0] * 6, abs=1e-5)


def test_dcgan_normalises_real_and_generated_images_apart() -> None:
    """What the discriminator says of real images does not hang on the generated ones of the step."""
    real: list[float] = []
    for grey in (-1.0, 0.5):
        model = make("dcgan").train()
        assert isinstance(model, DCGAN)
        model.generator = Everywhere(grey)  # type: ignore[assignment]
        x = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        real.append(next(iter(model.losses(x, torch.arange(4)))).logs["real"].item())
    assert real[0] == real[1]


def test_a_projection_is_linear_in_the_class() -> None:
    torch.manual_seed(0)
    head = Projection(16, num_classes=3)
    h, eye = torch.randn(4, 16), torch.eye(3)
    mixed = head(h, torch.tensor([[0.25, 0.75, 0.0]]).expand(4, 3))
    torch.testing.assert_close(mixed, 0.25 * head(h, eye[[0] * 4]) + 0.75 * head(h, eye[[1] * 4]))
    difference = head(h, torch.zeros(4, dtype=torch.int64)) - head(h, torch.ones(4, dtype=torch.int64))
    torch.testing.assert_close(difference, h @ (head.embedding.weight[0] - head.embedding.weight[1]))


def test_an_untrained_generator_passes_the_variance_of_z() -> None:
    torch.manual_seed(0)
    images = ResidualGenerator(64, 10, width=32, blocks=2)(torch.randn(64, 64), torch.zeros(64, dtype=torch.int64))
    assert 0.3 < images.detach().std(0).mean().item() < 1


@pytest.mark.parametrize("name", ["dcgan", "wgan_gp", "r3gan"])
class TestEveryGAN:
    def test_without_z_all_images_of_a_class_are_one(self, name: str) -> None:
        model = make(name).eval()
        with torch.no_grad():
            images = model.sample(torch.tensor([3, 3, 5]), noise=Noise(0, range(3)), truncation=0.0)  # type: ignore[call-arg]
        torch.testing.assert_close(images[0], images[1])
        assert not torch.allclose(images[0], images[2])

    def test_no_loss_says_how_good_the_samples_are(self, name: str) -> None:
        model = make(name)
        assert model.validation_loss(torch.zeros(2, 1, 28, 28), torch.arange(2)) is None

    def test_the_generator_answers_to_the_new_discriminator(self, name: str) -> None:
        """What follows a yield is computed after the step that the host took there."""
        model = make(name).train()
        x, y = torch.zeros(6, 1, 28, 28), torch.arange(6)

        def last(change: float) -> float:
            torch.manual_seed(1)
            losses: Iterator[Loss] = model.losses(x, y)
            loss = next(losses)
            with torch.no_grad():
                next(iter(loss.module.parameters())).add_(change)
            return float([each.value for each in losses][-1])

        assert last(0.0) != last(1.0)

    @pytest.mark.parametrize("change", [{"width": 0}, {"latent_dim": 0}])
    def test_impossible_sizes_are_refused(self, name: str, change: dict[str, object]) -> None:
        with pytest.raises(UsageError):
            make(name, **change)
