"""What autoregressive models and normalizing flows are built of, against mathematics."""

import math

import pytest
import torch
from torch import Tensor, nn

from mnistgen import Noise
from mnistgen.nn import (
    LIKELIHOODS,
    AffineCoupling,
    CausalBlock,
    FlowSequence,
    KeyValueCache,
    MaskedConv2d,
    checkerboard,
    dequantise,
    from_logits,
    log_normal,
    quantise,
    to_logits,
)
from mnistgen.nn.likelihoods import LikelihoodName

LEVELS = torch.arange(256) / 127.5 - 1


def disturbed(module: nn.Module) -> nn.Module:
    """The module with every parameter random, so that nothing is the identity it begins as."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module


# Likelihoods.


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_prob_is_the_sum_over_pixels(name: LikelihoodName) -> None:
    likelihood = LIKELIHOODS[name]()
    torch.manual_seed(0)
    h, x = torch.randn(2, likelihood.channels, 28, 28), LEVELS[torch.randint(256, (2, 1, 28, 28))]
    pixels = likelihood.pixel_log_prob(h, x)
    assert pixels.shape == x.shape
    torch.testing.assert_close(pixels.sum((1, 2, 3)), likelihood.log_prob(h, x))


@pytest.mark.parametrize("name", ["zero_inflated", "logistic", "categorical", "bernoulli"])
@pytest.mark.parametrize("seed", [0, 1])
def test_samples_have_the_frequencies_of_the_probabilities(name: LikelihoodName, seed: int) -> None:
    """Of grey levels: each count is within five standard deviations of its expectation, and all add up to one."""
    likelihood, n = LIKELIHOODS[name](), 160_000
    torch.manual_seed(seed)
    h = torch.randn(1, likelihood.channels, 1, 1)
    levels = LEVELS if name != "bernoulli" else torch.tensor([-1.0, 1.0])
    p = likelihood.pixel_log_prob(h.expand(-1, -1, 1, len(levels)), levels.view(1, 1, 1, -1)).flatten().exp().double()
    assert float(p.sum()) == pytest.approx(1, abs=1e-4)
    drawn = likelihood.sample(h.expand(-1, -1, 400, n // 400), Noise(seed, [0])).flatten()
    places = torch.bucketize(drawn, levels - 1e-4) - 1
    torch.testing.assert_close(levels[places], drawn)
    counts = torch.bincount(places, minlength=len(levels))
    assert ((counts - n * p).abs() <= 5 * (n * p * (1 - p)).sqrt() + 5).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["continuous_bernoulli", "gaussian"])
@pytest.mark.parametrize("h", [-3.0, 0.0, 0.7, 200.0])
def test_samples_have_the_cumulative_distribution_of_the_density(name: LikelihoodName, h: float) -> None:
    likelihood, n = LIKELIHOODS[name](), 40_000
    drawn = likelihood.sample(torch.full((1, 1, 200, 200), h), Noise(0, [0])).flatten().add(1).div(2).double()
    low, high = (0.0, 1.0) if name == "continuous_bernoulli" else (h - 4, h + 4)
    assert drawn.min() >= low
    assert drawn.max() <= high
    grid = torch.linspace(low, high, 20_001, dtype=torch.float64)
    x = (2 * grid - 1).view(1, 1, 1, -1)
    density = likelihood.pixel_log_prob(torch.full_like(x, h), x).flatten().exp()
    cdf = torch.cat([density.new_zeros(1), torch.cumulative_trapezoid(density, grid)])
    assert float(cdf[-1]) == pytest.approx(1, abs=1e-3)
    empirical = torch.searchsorted(drawn.sort().values, grid) / n
    assert float((empirical - cdf).abs().max()) < 1.95 / math.sqrt(n) + 1e-3  # Kolmogorov's, at 0.1 %


def test_a_pixel_is_drawn_alone_as_it_is_in_an_image() -> None:
    """An autoregressive model draws one pixel after the other from the same stream."""
    likelihood = LIKELIHOODS["categorical"]()
    h = torch.randn(2, likelihood.channels, 1, 1)
    assert likelihood.sample(h, Noise(0, [0, 1])).shape == (2, 1, 1, 1)


# Attention.


def test_attention_sees_the_past_alone() -> None:
    block = disturbed(CausalBlock(8, 2))
    x = torch.randn(1, 6, 8, requires_grad=True)
    for place in range(6):
        (gradient,) = torch.autograd.grad(block(x)[0, place].sum(), x)
        reached = gradient[0].abs().sum(1) > 0
        assert reached.tolist() == [other <= place for other in range(6)]


@pytest.mark.parametrize("pieces", [[1] * 7, [3, 1, 3], [7], [2, 5]])
def test_a_cache_changes_nothing(pieces: list[int]) -> None:
    blocks = [disturbed(CausalBlock(8, 2)) for _ in range(2)]
    x = torch.randn(2, 7, 8)
    whole = blocks[1](blocks[0](x))
    caches = [KeyValueCache(7) for _ in blocks]
    parts = []
    for piece in x.split(pieces, dim=1):
        for block, cache in zip(blocks, caches, strict=True):
            piece = block(piece, cache)
        parts.append(piece)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_sampling_from_a_cache_is_naive_sampling() -> None:
    codes, length = 5, 6
    embedding, block, head = nn.Embedding(codes + 1, 8), disturbed(CausalBlock(8, 2)), nn.Linear(8, codes)

    def draw(*, cached: bool) -> Tensor:
        noise, cache, c = Noise(3, range(4)), KeyValueCache(length), torch.full((4, 1), codes)
        for _ in range(length):
            h = block(embedding(c[:, -1:]), cache) if cached else block(embedding(c))
            c = torch.cat([c, noise.categorical(head(h[:, -1]))[:, None]], 1)
        return c[:, 1:]

    with torch.no_grad():
        assert torch.equal(draw(cached=True), draw(cached=False))


# Masked convolutions.


@pytest.mark.parametrize(("kinds", "sees_itself"), [("A", False), ("B", True), ("ABB", False)])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_masked_convolutions_see_what_comes_before(kinds: str, sees_itself: bool, kernel_size: int) -> None:
    channels = [1, *[4] * len(kinds)]
    layers = [MaskedConv2d(kind, *channels[i : i + 2], kernel_size) for i, kind in enumerate(kinds)]
    network = disturbed(nn.Sequential(*layers))
    x = torch.randn(1, 1, 5, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x)[0, :, 2, 2].sum(), x)
    reached = gradient.flatten() != 0
    assert not reached[13:].any()
    assert bool(reached[12]) == sees_itself
    assert reached[[6, 7, 8, 11]].all()


# Couplings.


def net(channels: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 2 * channels, 3, padding=1))


def flow() -> FlowSequence:
    return FlowSequence(AffineCoupling(net(), checkerboard(3, 4, odd=odd)) for odd in (False, True, False))


def test_couplings_are_inverted_and_their_log_determinant_is_the_jacobians() -> None:
    layers = disturbed(flow()).double()
    x = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    z, log_det = layers(x)
    torch.testing.assert_close(layers.inverse(z), x)
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda v: layers(v)[0].flatten(), x[i : i + 1])
        expected = torch.linalg.slogdet(jacobian.reshape(12, 12)).logabsdet
        torch.testing.assert_close(log_det[i], expected)
    assert not torch.allclose(z, x)


def test_couplings_are_exact_under_autocast() -> None:
    layers = disturbed(flow())
    x = torch.randn(2, 1, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        z, _ = layers(x)
        torch.testing.assert_close(layers.inverse(z), x, rtol=1e-4, atol=1e-5)


def test_a_coupling_takes_a_condition() -> None:
    class Conditional(nn.Module):
        def forward(self, x: Tensor, e: Tensor) -> Tensor:
            return torch.cat([x + e, x - e], 1)

    layer = AffineCoupling(Conditional(), torch.tensor([1.0, 0.0]))
    x, e = torch.randn(3, 2), torch.randn(3, 2)
    z, _ = layer(x, e)
    torch.testing.assert_close(layer.inverse(z, e), x)
    assert not torch.equal(layer(x, e + 1)[0], z)


def test_log_normal_is_torchs() -> None:
    z = torch.randn(3, 2, 5)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum((1, 2))
    torch.testing.assert_close(log_normal(z), expected)


# Dequantisation.


def test_dequantising_comes_back_to_every_level() -> None:
    x = LEVELS.view(1, 1, 16, 16)
    for seed in range(5):
        v, correction = dequantise(x, Noise(seed, [0]))
        assert 0 <= float(v.min()) < float(v.max()) < 1
        torch.testing.assert_close(quantise(v), x)
    assert float(correction) == pytest.approx(-256 * math.log(256))
    torch.testing.assert_close(quantise(dequantise(x)[0]), x)


def test_the_correction_makes_a_uniform_density_one_of_levels() -> None:
    """p(v) = 1 on [0, 1] is P(n) = 1 / 256, and p(v) = 2 v is P(n) = (2 n + 1) / 256^2, as the mean over u has it."""
    x = LEVELS.view(256, 1, 1, 1)
    _, correction = dequantise(x)
    torch.testing.assert_close(correction.exp().sum(), torch.tensor(1.0))
    u = (torch.arange(1000) + 0.5) / 1000
    p = (2 * ((torch.arange(256)[:, None] + u) / 256)).mean(1) * correction.exp()
    torch.testing.assert_close(p, (2 * torch.arange(256) + 1) / 256**2)


def test_logits_are_inverted_and_their_log_determinant_is_the_derivatives() -> None:
    v = torch.rand(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    h, log_det = to_logits(v)
    torch.testing.assert_close(from_logits(h), v)
    (slope,) = torch.autograd.grad(h.sum(), v)
    torch.testing.assert_close(log_det, slope.log().sum((1, 2, 3)))
    assert to_logits(torch.tensor([[0.0, 1.0]]))[0].isfinite().all()
