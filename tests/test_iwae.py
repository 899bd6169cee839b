"""The importance weighted autoencoder: its bound and its gradients, against values computed another way."""

import math

import pytest
import torch
import torch.nn.functional as F
from mnistgen_plugins.vae.iwae import CODES, IWAE, IWAEConfig, bernoulli_log_prob, log_normal, probabilities
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from mnistgen import Noise, UsageError
from mnistgen.testing import check_model

SMALL = {"hidden": 12, "latent_dim": 2, "importance_samples": 3}


def make(classes: int = 10, **changes: object) -> IWAE:
    """A small model whose posterior and decoder both hang on their inputs."""
    torch.manual_seed(0)
    model = IWAE(IWAEConfig(**{**SMALL, **changes}), classes)  # type: ignore[arg-type]
    with torch.no_grad():
        model.encoder.out.weight *= 3
        model.decoder.first.weight *= 2
    return model.eval()


def binary(n: int = 5, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Images of black and white pixels."""
    x = 2 * torch.randint(0, 2, (n, 1, 28, 28), generator=torch.Generator().manual_seed(0)).float() - 1
    return x, torch.arange(n) % classes


def grey(n: int = 5) -> tuple[Tensor, Tensor]:
    return 2 * torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(0)) - 1, torch.arange(n)


def draws(n: int, k: int, dim: int = 2) -> Tensor:
    return torch.randn(n, k, dim, generator=torch.Generator().manual_seed(1))


def log_weights(model: IWAE, x: Tensor, y: Tensor, eps: Tensor) -> Tensor:
    v = probabilities(x)
    log_likelihood, log_ratio = model.log_weight_terms(v, y, *model.posterior(v, y), eps)
    return log_likelihood - log_ratio


def by_integration(model: IWAE, x: Tensor, y: Tensor) -> Tensor:
    """log of the integral of p(x | z) p(z) dz, one latent, by a sum over a fine grid: (n,) float64."""
    z = torch.linspace(-9, 9, 4001)[:, None]
    log_prior = Normal(0, 1).log_prob(z.double()).T  # (1, z)
    v = probabilities(x).double()
    total = torch.empty(len(x), dtype=torch.float64)
    with torch.no_grad():
        for label in y.unique():
            rows = y == label
            h = model.decoder(z, label.expand(len(z))).double()
            joint = v[rows] @ F.logsigmoid(h).T + (1 - v[rows]) @ F.logsigmoid(-h).T + log_prior
            total[rows] = joint.logsumexp(1) + math.log(18 / 4000)
    return total


def gradients(model: IWAE, value: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters, retain_graph=True), strict=True))


@pytest.mark.parametrize("dreg", [False, True])
def test_other_configs_keep_the_contract(dreg: bool) -> None:
    check_model(IWAE, config=IWAEConfig(hidden=64, latent_dim=8, importance_samples=5, dreg=dreg))


def test_the_pixels_likelihood_agrees_with_torch() -> None:
    v = probabilities(binary(3)[0])[:, None]
    h = torch.linspace(-60, 60, 784).repeat(3, 4, 1)
    expected = Independent(Bernoulli(logits=h.double()), 1).log_prob(v.double())
    torch.testing.assert_close(bernoulli_log_prob(h, v).double(), expected, rtol=1e-5, atol=1e-3)
    fractions = probabilities(grey(3)[0])[:, None]
    expected = -F.binary_cross_entropy_with_logits(h, fractions.expand_as(h), reduction="none").sum(-1)
    torch.testing.assert_close(bernoulli_log_prob(h, fractions), expected, rtol=1e-5, atol=1e-3)


def test_the_gradient_of_the_pixels_likelihood_is_what_is_left_to_explain() -> None:
    v = probabilities(grey(2)[0]).double()[:, None]
    h = (4 * torch.randn(2, 3, 784)).requires_grad_()
    bernoulli_log_prob(h, v.float()).sum().backward()
    assert h.grad is not None
    torch.testing.assert_close(h.grad.double(), v - h.detach().double().sigmoid(), rtol=0, atol=1e-5)


def test_one_code_gives_the_elbo_of_the_vae() -> None:
    """Kingma & Welling's: log p(x | z) at z = mean + std eps, minus a draw of the KL, whose mean is the closed form."""
    model, (x, y) = make(), binary()
    eps = draws(5, 1)
    with torch.no_grad():
        v = probabilities(x)
        mean, log_std = model.posterior(v, y)
        z = mean + log_std.exp() * eps[:, 0]
        q, prior = Independent(Normal(mean, log_std.exp()), 1), Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        elbo = Independent(Bernoulli(logits=model.decoder(z, y)), 1).log_prob(v) - q.log_prob(z) + prior.log_prob(z)
        torch.testing.assert_close(log_weights(model, x, y, eps)[:, 0], elbo)

        _, log_ratio = model.log_weight_terms(v, y, mean, log_std, draws(5, 4000))
        kl = kl_divergence(q, prior.expand((5,)))
    assert (kl > 0.1).all()
    assert ((log_ratio.mean(1) - kl).abs() < 5 * log_ratio.std(1) / math.sqrt(4000)).all()


def test_the_training_loss_of_the_vae_is_minus_log_prob_of_one_code() -> None:
    model, (x, y) = make(importance_samples=1), binary()
    torch.manual_seed(3)
    torch.rand(5, 784)  # the pixels, which stay as they are: they are black and white
    expected = -model.log_prob(x, y).mean()
    torch.manual_seed(3)
    (loss,) = model.losses(x, y)
    torch.testing.assert_close(loss.value, expected)
    assert float(loss.logs["ess"]) == pytest.approx(1)


def test_the_bound_grows_with_the_codes_and_stays_below_the_likelihood() -> None:
    model, (x, y) = make(latent_dim=1), binary(3)
    with torch.no_grad():
        log_w = log_weights(model, x, y, draws(3, 2000 * 32, 1)).double()
    bounds, error = [], []
    for k in (1, 2, 4, 8, 32):
        values = log_w.unflatten(1, (-1, k)).logsumexp(2) - math.log(k)
        bounds.append(values.mean(1))
        error.append(values.std(1) / math.sqrt(values.shape[1]))
    bounds.append(by_integration(model, x, y))
    error.append(torch.zeros(3, dtype=torch.float64))
    for i in range(5):
        assert (bounds[i + 1] - bounds[i] > -3 * error[i + 1]).all()
    assert (bounds[-1] - bounds[0] > 10 * error[0]).all()  # and not all are the same


def test_many_codes_come_to_the_integral_over_the_code() -> None:
    model, (x, y) = make(latent_dim=1), binary(3)
    torch.manual_seed(0)
    with torch.no_grad():
        estimate = model.log_prob(x, y, importance_samples=20_000).double()
    torch.testing.assert_close(estimate, by_integration(model, x, y), rtol=0, atol=0.1)


def test_where_the_decoder_ignores_the_code_the_bound_is_exact() -> None:
    """The posterior is then the prior; with it, each weight is p(x | y), whatever the code and however many."""
    model, (x, y) = make(), binary()
    with torch.no_grad():
        model.decoder.first.weight.zero_()
        model.encoder.out.weight.zero_()
        model.encoder.out.bias.zero_()
        h = model.decoder(torch.zeros(5, 2), y)
        exact = Independent(Bernoulli(logits=h), 1).log_prob(probabilities(x))
        for k in (1, 2, 50):
            torch.testing.assert_close(model.log_prob(x, y, importance_samples=k), exact, rtol=1e-5, atol=1e-3)
    (loss,) = model.losses(x, y)
    torch.testing.assert_close(loss.value, -exact.mean(), rtol=1e-5, atol=1e-3)
    assert float(loss.logs["ess"]) == pytest.approx(3, abs=1e-3)  # all weights are equal
    assert float(loss.logs["kl"]) == pytest.approx(0, abs=1e-5)


def test_the_gradient_is_that_of_the_log_weights_by_their_share() -> None:
    model, (x, y) = make(importance_samples=4), binary(2)
    torch.manual_seed(3)
    (loss,) = model.losses(x, y)
    torch.manual_seed(3)
    torch.rand(2, 784)  # the pixels, which stay as they are
    log_w = log_weights(model, x, y, torch.randn(2, 4, 2))
    shares = log_w.detach().softmax(1)
    assert (shares.max(1).values < 0.999).any()  # or there would be nothing to share
    terms = [
        gradients(model, -share * weight / 2) for share, weight in zip(shares.flatten(), log_w.flatten(), strict=True)
    ]
    for name, gradient in gradients(model, loss.value).items():
        expected = torch.stack([term[name] for term in terms]).sum(0)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("k", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_doubly_reparameterised_gradient_has_the_same_mean(k: int) -> None:
    """The encoder's over 40,000 draws, within their error; the decoder's, and the bound, draw by draw."""
    plain, dreg = make(importance_samples=k), make(importance_samples=k, dreg=True)
    x, y = (part[:1].expand(2000, *part.shape[1:]) for part in binary(1))
    found: dict[bool, list[Tensor]] = {False: [], True: []}
    for seed in range(20):
        for model in (plain, dreg):
            torch.manual_seed(seed)
            (loss,) = model.losses(x, y)
            found[model is dreg].append(
                torch.cat([loss.value.detach()[None], *(g.flatten() for g in gradients(model, loss.value).values())])
            )
    first, second = torch.stack(found[False]), torch.stack(found[True])
    names = ["", *(name for name, p in plain.named_parameters() for _ in range(p.numel()))]
    encoder = torch.tensor([name.startswith("encoder") for name in names])
    torch.testing.assert_close(first[:, ~encoder], second[:, ~encoder], rtol=1e-3, atol=1e-4)

    first, second = first[:, encoder], second[:, encoder]
    error = (first.var(0) / 20 + second.var(0) / 20).sqrt()
    used = error > 1e-6  # the rest belongs to pixels that are black and to other classes
    z = (first.mean(0) - second.mean(0))[used] / error[used]
    assert z.square().mean() < 2
    assert first.mean(0).norm() > 10 * error.norm() / math.sqrt(len(error))
    assert not torch.allclose(first, second, rtol=1e-2)  # and it is another estimator


def test_grey_pixels_are_binarised_anew_in_each_step() -> None:
    """With all logits alike, log p counts the white pixels."""
    model, (x, y) = make(), grey()
    c = 3.0
    with torch.no_grad():
        for part in (model.encoder, model.decoder):
            part.out.weight.zero_()
            part.out.bias.zero_()
        model.decoder.out.bias.fill_(c)
    torch.manual_seed(5)
    white = []
    for _ in range(50):
        (loss,) = model.losses(x, y)
        white.append((-loss.value.item() + 784 * math.log1p(math.exp(c))) * len(x) / c)
    counts = torch.tensor(white)
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=0.02)
    assert len(counts.round().unique()) > 10
    v = probabilities(x)
    spread = float((v * (1 - v)).sum().sqrt())
    assert abs(counts.mean() - v.sum()) < 5 * spread / math.sqrt(50)
    assert float(counts.std()) == pytest.approx(spread, rel=0.5)


def test_log_prob_of_a_grey_image_is_below_the_mean_over_its_binarisations() -> None:
    """Of middle grey, b and 1 - b are equally likely, and the mean of their log p is above that of their mean."""
    model, y = make(latent_dim=1), torch.zeros(100, dtype=torch.int64)
    middle = torch.zeros(1, 1, 28, 28)
    b = 2 * torch.randint(0, 2, (100, 1, 28, 28), generator=torch.Generator().manual_seed(0)).float() - 1
    of_grey = by_integration(model, middle, y[:1])
    assert ((by_integration(model, b, y) + by_integration(model, -b, y)) / 2 > of_grey).all()
    torch.manual_seed(0)
    with torch.no_grad():
        estimate = model.log_prob(middle, y[:1], importance_samples=5000).double()
    torch.testing.assert_close(estimate, of_grey, rtol=0, atol=0.1)


def test_draws_in_several_parts_are_one_estimate() -> None:
    model, (x, y) = make(), binary(3)
    k = 2 * CODES // 3 + 5
    torch.manual_seed(0)
    with torch.no_grad():
        estimate = model.log_prob(x, y, importance_samples=k)
        torch.manual_seed(0)
        sizes = [CODES // 3, CODES // 3, k - 2 * (CODES // 3)]
        eps = torch.cat([torch.randn(3, size, 2) for size in sizes], dim=1)
        expected = log_weights(model, x, y, eps).logsumexp(1) - math.log(k)
    torch.testing.assert_close(estimate, expected)


def test_gradients_reach_every_parameter() -> None:
    for dreg in (False, True):
        model, (x, y) = make(dreg=dreg).train(), binary(10)
        (loss,) = model.losses(x, y)
        for name, gradient in gradients(model, loss.value).items():
            assert gradient.abs().sum() > 0, name


def test_the_bound_is_float32_under_autocast() -> None:
    model, (x, y) = make(), binary()
    with torch.autocast("cpu", torch.bfloat16):
        (loss,) = model.losses(x, y)
        bound, z = model.log_prob(x, y), model.encode(x, y)
        image = model.decode(z, y)
    assert loss.value.dtype == bound.dtype == z.dtype == image.dtype == torch.float32


def test_a_sample_is_the_probability_of_white() -> None:
    model, y = make(), torch.arange(4)
    z = Noise(0, range(4)).normal(2)
    white = probabilities(model.sample(y, noise=Noise(0, range(4))))
    assert float((white - model.decoder(z, y).sigmoid()).abs().max()) < 0.5 / 255 + 1e-5  # the nearest grey level
    still = model.sample(y, noise=Noise(0, range(4)), temperature=0.0)
    torch.testing.assert_close(still, model.decode(torch.zeros(4, 2), y))


def test_log_normal_agrees_with_torch() -> None:
    u = torch.randn(3, 4, 5)
    torch.testing.assert_close(log_normal(u), Normal(0, 1).log_prob(u).sum(-1))


@pytest.mark.parametrize("name", ["importance_samples", "latent_dim", "hidden"])
def test_impossible_hyperparameters_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        IWAEConfig(**{name: 0})  # type: ignore[arg-type]
