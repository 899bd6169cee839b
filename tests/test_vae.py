"""The VAE: its distributions, its bound and its codes, against values computed another way."""

import math

import pytest
import torch
from mnistgen_plugins.vae.vae import VAE, CouplingFlow, VAEConfig, log_normal
from torch import Tensor
from torch.distributions import ContinuousBernoulli, Independent, Normal, kl_divergence

from mnistgen import Noise, UsageError
from mnistgen.data import to_float
from mnistgen.nn import LIKELIHOODS

SMALL = {"width": 8, "latent_dim": 4, "prior_layers": 2}


def batch(n: int = 6, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Images of random grey, with black and white among them."""
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(-300, 556, (n, 1, 28, 28), generator=generator).clamp(0, 255).to(torch.uint8)
    return to_float(grey), torch.arange(n) % classes


def shaken(model: VAE) -> VAE:
    """The model away from its zero initialisations."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def make(classes: int = 10, **changes: object) -> VAE:
    torch.manual_seed(0)
    return shaken(VAE(VAEConfig(**{**SMALL, **changes}), classes))  # type: ignore[arg-type]


def one_pixel(value: Tensor) -> Tensor:
    """(n,) values in [0, 1] as (n, 1, 1, 1) in model space."""
    return 2 * value[:, None, None, None] - 1


@pytest.mark.parametrize("name", ["zero_inflated", "logistic", "categorical"])
def test_a_pixel_likelihood_sums_to_one_over_the_256_values(name: str) -> None:
    likelihood = LIKELIHOODS[name]()
    for seed, size in enumerate((0.0, 0.1, 3.0, 100.0)):
        h = size * torch.randn(likelihood.channels, generator=torch.Generator().manual_seed(seed))
        x = one_pixel(torch.arange(256) / 255)
        log_prob = likelihood.log_prob(h[None, :, None, None].expand(256, -1, 1, 1), x)
        assert log_prob.exp().sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["continuous_bernoulli", "gaussian"])
@pytest.mark.parametrize("logit", [-6.0, -0.05, 0.0, 2.0])
def test_a_pixel_density_integrates_to_one(name: str, logit: float) -> None:
    likelihood = LIKELIHOODS[name]()
    margin = 10.0 if name == "gaussian" else 0.0  # its support is not [0, 1]
    v = torch.linspace(-margin, 1 + margin, 20001)
    h = torch.full((len(v), likelihood.channels, 1, 1), logit)
    density = likelihood.log_prob(h, one_pixel(v)).exp().detach()
    assert torch.trapezoid(density, v) == pytest.approx(1, abs=1e-3)


def test_the_cross_entropy_is_the_mean_log_likelihood_of_binarised_pixels() -> None:
    x, _ = batch(1)
    h = torch.randn(1, 1, 28, 28)
    v = (x + 1) / 2
    p = h.sigmoid()
    expected = (v * p.log() + (1 - v) * (1 - p).log()).sum()
    torch.testing.assert_close(LIKELIHOODS["bernoulli"]().log_prob(h, x)[0], expected)


def test_continuous_bernoulli_agrees_with_torch() -> None:
    likelihood, (x, _) = LIKELIHOODS["continuous_bernoulli"](), batch(1)
    h = torch.linspace(-12, 12, 784).reshape(1, 1, 28, 28)
    reference = ContinuousBernoulli(logits=h.double())
    log_prob = reference.log_prob((x.double() + 1) / 2).sum()
    torch.testing.assert_close(likelihood.log_prob(h, x).double()[0], log_prob, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(likelihood.image(h).double(), 2 * reference.mean - 1, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["continuous_bernoulli", "gaussian", "categorical", "bernoulli"])
def test_the_image_shown_is_the_mean(name: str) -> None:
    likelihood = LIKELIHOODS[name]()
    margin = 10.0 if name == "gaussian" else 0.0
    h = 2 * torch.randn(likelihood.channels, generator=torch.Generator().manual_seed(3))[None, :, None, None]
    if name in ("bernoulli", "categorical"):
        v = torch.tensor([0.0, 1.0]) if name == "bernoulli" else torch.arange(256) / 255
        weight = likelihood.log_prob(h.expand(len(v), -1, 1, 1), one_pixel(v)).exp()
    else:
        v = torch.linspace(-margin, 1 + margin, 20001)
        weight = likelihood.log_prob(h.expand(len(v), -1, 1, 1), one_pixel(v)).exp() * (v[1] - v[0])
    expected = (2 * (weight.detach() * v).sum() - 1).clamp(-1, 1)
    assert likelihood.image(h).item() == pytest.approx(float(expected), abs=2e-2)


@pytest.mark.parametrize("slope", [-300.0, -20.0, -1.0, -1e-3, 0.0, 1e-4, 1.0, 20.0, 300.0])
@pytest.mark.parametrize("ink", [-30.0, -0.1, 0.1, 1.0, 3.0, 30.0])
def test_the_zero_inflated_image_is_the_median(ink: float, slope: float) -> None:
    likelihood, v = LIKELIHOODS["zero_inflated"](), torch.arange(256) / 255
    h = torch.tensor([ink, slope]).view(1, 2, 1, 1).requires_grad_()
    p = likelihood.log_prob(h.detach().expand(256, -1, 1, 1), one_pixel(v)).double().exp()
    median = int((p.cumsum(0) >= 0.5).nonzero()[0])
    image = likelihood.image(h)
    shown = float((image.detach() + 1) * 127.5)
    assert median - 1 - 0.01 <= shown <= median + 0.01  # between two whole numbers, where P passes 1/2 between them
    image.sum().backward()
    assert h.grad is not None
    assert h.grad.isfinite().all()


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_log_likelihoods_stay_finite_at_the_ends(name: str) -> None:
    likelihood = LIKELIHOODS[name]()
    for size in (0.0, 1e-4, 40.0, -40.0):
        h = torch.full((2, likelihood.channels, 28, 28), size, requires_grad=True)
        x = torch.cat([torch.full((1, 1, 28, 28), -1.0), torch.full((1, 1, 28, 28), 1.0)])
        likelihood.log_prob(h, x).sum().backward()
        assert h.grad is not None
        assert h.grad.isfinite().all()


def test_with_a_standard_normal_prior_the_kl_is_the_closed_form() -> None:
    model = make(prior_layers=0)
    x, y = batch(4)
    with torch.no_grad():
        mean, log_std = model.encoder(x, model.embedding(y))
        draws = torch.stack([model.elbo_terms(x, y)[1] for _ in range(400)])
        posterior = Independent(Normal(mean, log_std.exp()), 1)
        expected = kl_divergence(posterior, Independent(Normal(torch.zeros(4), torch.ones(4)), 1).expand((4,)))
    standard_error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - expected).abs() < 5 * standard_error + 1e-4).all()


@pytest.mark.parametrize("dim", [1, 2, 5, 16])
def test_the_flow_is_invertible_and_its_determinant_is_that_of_its_jacobian(dim: int) -> None:
    torch.manual_seed(0)
    flow = CouplingFlow(dim, 3, layers=5)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    flow.double()
    z, e = torch.randn(4, dim, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    u, log_det = flow.inverse(z, e)
    torch.testing.assert_close(flow(u, e), z)
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda z, i=i: flow.inverse(z[None], e[i : i + 1])[0][0], z[i])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[i])


def test_the_flow_begins_as_the_identity_up_to_order() -> None:
    u, e = torch.randn(4, 6), torch.randn(4, 3)
    assert torch.equal(CouplingFlow(6, 3, layers=4)(u, e), u)


def test_the_learned_prior_is_a_normalised_density() -> None:
    model = make(latent_dim=2, prior_layers=4)
    axis = torch.linspace(-9, 9, 250)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        u, log_det = model.prior.inverse(z, model.embedding(torch.full((len(z),), 3)))
        total = (log_normal(u) + log_det).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_the_elbo_is_below_the_likelihood_and_more_samples_come_closer() -> None:
    """With one latent, log p(x | y) = log of the integral of p(x | z) p(z) is a sum over a fine grid."""
    model = make(latent_dim=1, prior_layers=2)
    x, y = batch(3)
    z = torch.linspace(-12, 12, 1501)[:, None]
    with torch.no_grad():
        exact = []
        for i in range(3):
            e = model.embedding(y[i : i + 1]).expand(len(z), -1)
            u, log_det = model.prior.inverse(z, e)
            log_likelihood = torch.cat(
                [
                    model.pixels.log_prob(model.decoder(zs, es), x[i : i + 1].expand(len(zs), -1, -1, -1))
                    for zs, es in zip(z.split(500), e.split(500), strict=True)
                ]
            )
            exact.append((log_likelihood + log_normal(u) + log_det).double().logsumexp(0) + math.log(24 / 1500))
        torch.manual_seed(0)
        singles = torch.stack([model.log_prob(x, y) for _ in range(300)])
        torch.manual_seed(0)  # the same draws of z
        tightened = model.log_prob(x, y, importance_samples=300)
    likelihood = torch.stack(exact).float()
    assert (singles.mean(0) < likelihood).all()
    assert (singles.mean(0) < tightened).all()
    torch.testing.assert_close(tightened, likelihood, rtol=0, atol=0.1)


def test_the_warm_up_counts_training_steps_only() -> None:
    model = make(kl_warmup_steps=4, beta=0.5)
    x, y = batch()
    model.eval()
    list(model.losses(x, y))
    assert int(model.kl_steps) == 0
    model.train()
    weights = []
    for _ in range(6):
        weights.append(float(model.kl_weight()))
        list(model.losses(x, y))
    assert weights == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 0.5])
    assert int(model.state_dict()["kl_steps"]) == 6  # and so it is saved with the weights


def test_the_loss_is_the_negative_elbo_where_the_model_is_not_training() -> None:
    model = make(beta=0.1)
    x, y = batch()
    (loss,) = model.losses(x, y)
    torch.testing.assert_close(loss.value, loss.logs["reconstruction"] + loss.logs["kl"])
    torch.manual_seed(5)
    expected = -model.log_prob(x, y).mean()
    torch.manual_seed(5)
    torch.testing.assert_close(model.validation_loss(x, y), expected)


def test_no_warm_up_is_full_weight_from_the_first_step() -> None:
    model = make(kl_warmup_steps=0).train()
    list(model.losses(*batch()))
    assert float(model.kl_weight()) == 1


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_gradients_reach_every_parameter(name: str) -> None:
    model = make(likelihood=name).train()
    model.kl_steps.fill_(1000)
    (loss,) = model.losses(*batch())
    loss.value.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


def test_the_loss_is_float32_under_autocast() -> None:
    model = make()
    x, y = batch()
    with torch.autocast("cpu", torch.bfloat16):
        nll, kl = model.elbo_terms(x, y)
        image = model.decode(model.encode(x, y), y)
    assert nll.dtype == kl.dtype == image.dtype == torch.float32


@pytest.mark.parametrize(("latent_dim", "classes"), [(1, 10), (2, 26), (3, 1)])
def test_other_shapes(latent_dim: int, classes: int) -> None:
    model = make(classes, latent_dim=latent_dim)
    x, y = batch(5, classes)
    assert model.latent_shape == (latent_dim,)
    z = model.encode(x, y)
    assert z.shape == (5, latent_dim)
    images = model.sample(y, noise=Noise(0, range(5)))
    for image in (images, model.decode(z, y)):
        assert image.shape == (5, 1, 28, 28)
        assert image.abs().max() <= 1


def test_decode_takes_weights_of_classes() -> None:
    model = make()
    y, z = torch.tensor([3, 9]), torch.randn(2, 4)
    torch.testing.assert_close(model.decode(z, torch.eye(10)[y]), model.decode(z, y))
    between = torch.full((2, 10), 0.1)
    assert not torch.allclose(model.decode(z, between), model.decode(z, y))


def test_encode_inverts_the_prior_at_the_posterior_mean() -> None:
    model = make()
    x, y = batch()
    e = model.embedding(y)
    torch.testing.assert_close(model.prior(model.encode(x, y), e), model.encoder(x, e)[0], rtol=1e-4, atol=1e-5)


def test_an_image_depends_on_its_own_label_and_noise_alone() -> None:
    model, y = make(), torch.arange(6)
    whole = model.sample(y, noise=Noise(7, range(6)))
    torch.testing.assert_close(model.sample(y[4:], noise=Noise(7, [4, 5])), whole[4:])


def test_temperature_zero_is_one_image_for_each_class() -> None:
    model = make()
    images = model.sample(torch.tensor([2, 2, 5]), noise=Noise(0, range(3)), temperature=0.0)
    torch.testing.assert_close(images[0], images[1])
    assert not torch.allclose(images[0], images[2])


@pytest.mark.slow
def test_it_learns_a_small_batch_by_heart() -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig(width=16, latent_dim=8, prior_layers=2, lr=2e-3, kl_warmup_steps=0)).train()
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(8, 1, 28, 28)
    for i in range(8):  # a bright square each
        r, c = torch.randint(4, 18, (2,), generator=generator).tolist()
        x[i, 0, r : r + 6, c : c + 6] = 1
    x, y = 2 * x - 1, torch.arange(8)
    (optimizer,) = model.optimizers().values()
    apart = math.inf
    for step in range(1, 251):
        (loss,) = model.losses(x, y)
        optimizer.zero_grad()
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            with torch.no_grad():
                apart = float((model.eval().decode(model.encode(x, y), y) - x).abs().mean())
            if apart < 0.05:
                break
            model.train()
    assert apart < 0.05  # of a range of 2


def test_each_likelihood_says_what_its_nats_are_of() -> None:
    assert VAE.likelihood_of == make().likelihood_of == LIKELIHOODS[VAEConfig.likelihood].of
    assert make(likelihood="bernoulli").likelihood_of == "stochastically binarised pixels"


def test_the_checkpoint_of_the_default_fits_in_4_mib() -> None:
    model = VAE(VAEConfig())
    assert sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) < 4 * 2**20


@pytest.mark.parametrize(("name", "value"), [("latent_dim", 0), ("blocks", 0), ("beta", -1.0), ("prior_layers", -1)])
def test_impossible_hyperparameters_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        VAEConfig(**{name: value})  # type: ignore[arg-type]
