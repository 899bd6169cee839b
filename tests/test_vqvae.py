"""The VQ-VAE: its quantizer and its prior, against values computed another way."""

import math

import pytest
import torch
import torch.nn.functional as F
from mnistgen_plugins.vae.vqvae import FSQ, SIDE, VQVAE, Transformer, VQVAEConfig, usage
from torch import Tensor

from mnistgen import Noise, UsageError

LEVELS = [(4, 4, 4), (8, 6, 5), (3,), (2, 2)]


def prior(codes: int = 6, classes: int = 3) -> Transformer:
    """A small transformer away from its zero initialisations."""
    torch.manual_seed(0)
    network = Transformer(codes, classes, width=16, layers=2, heads=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


def random_codes(n: int, codes: int) -> Tensor:
    return torch.randint(codes, (n, SIDE * SIDE), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("levels", LEVELS)
def test_every_code_has_values_of_its_own_and_comes_back(levels: tuple[int, ...]) -> None:
    quantizer = FSQ(levels)
    codes = torch.arange(quantizer.codes).view(-1, 1, 1)
    values = quantizer.values_of(codes)
    assert quantizer.codes == math.prod(levels) == len(values.unique(dim=0))
    assert values.shape[1] == len(levels)
    assert torch.equal(quantizer.codes_of(values), codes)
    for i, count in enumerate(levels):
        torch.testing.assert_close(values[:, i].unique(), torch.linspace(-1, 1, count))


@pytest.mark.parametrize("levels", LEVELS)
def test_rounding_takes_the_nearest_level_and_passes_the_gradient(levels: tuple[int, ...]) -> None:
    quantizer = FSQ(levels)
    h = torch.randn(50, len(levels), 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    z = quantizer(h)
    torch.testing.assert_close(quantizer.values_of(quantizer.codes_of(z.detach())), z.detach())
    half = 1 / (torch.tensor(levels) - 1).view(1, -1, 1, 1)
    smooth = torch.tanh(F.layer_norm(h, h.shape[1:]))
    assert ((z - smooth).abs() <= half + 1e-6).all()
    weights = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad((weights * smooth).sum(), h)
    (weights * z).sum().backward()
    torch.testing.assert_close(h.grad, expected)


def test_usage_of_one_code_and_of_all() -> None:
    one, every = usage(torch.full((3, 49), 5), 8), usage(torch.arange(8).repeat(4, 7), 8)
    assert (float(one["codes_used"]), float(one["perplexity"])) == pytest.approx((1 / 8, 1.0))
    assert (float(every["codes_used"]), float(every["perplexity"])) == pytest.approx((1.0, 8.0))


def test_the_probabilities_of_the_last_code_add_up() -> None:
    """Summed over the last code, p(c | y) no longer hangs on it, and what is left is p of the others."""
    network, codes = prior(), 6
    c = random_codes(1, codes).repeat(codes, 1)
    c[:, -1] = torch.arange(codes)
    y = torch.ones(codes, dtype=torch.int64)
    whole = network.log_prob(c, y).logsumexp(0)
    before = [network.log_prob(torch.cat([c[:1, :-1], c[i : i + 1, -1:]], 1), y[:1]) for i in range(codes)]
    torch.testing.assert_close(torch.cat(before).logsumexp(0), whole)
    c[:, -2] = torch.arange(codes)  # the last two alike; a code must not see itself or what follows
    first = terms(network, c, y)[:, : SIDE * SIDE - 2]
    torch.testing.assert_close(first, first[:1].expand_as(first))


def terms(network: Transformer, c: Tensor, y: Tensor) -> Tensor:
    """log p(c_i | before, y) for each place, (b, 49), by the gradient-free definition."""
    logits = logits_of(network, c, y)
    return logits.log_softmax(-1).gather(-1, c[..., None])[..., 0]


def logits_of(network: Transformer, c: Tensor, y: Tensor) -> Tensor:
    h = network._enter(c, y, slice(None))
    for layer in network.layers:
        h = layer(h)
    return network.out(network.norm(h))


def test_log_prob_is_the_sum_of_the_terms() -> None:
    network = prior()
    c, y = random_codes(4, 6), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(network.log_prob(c, y), terms(network, c, y).sum(1))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampling_with_a_memory_draws_from_the_whole_model(temperature: float) -> None:
    """The same noise, through the model run anew on all places, picks the same codes."""
    network, y = prior(), torch.tensor([2, 0, 1, 1])
    with torch.no_grad():
        drawn = network.sample(y, Noise(3, range(4)), temperature)
        logits = logits_of(network, drawn, y) / temperature
    noise = Noise(3, range(4))
    again = torch.stack([noise.categorical(logits[:, i]) for i in range(SIDE * SIDE)], 1)
    assert torch.equal(drawn, again)


def test_the_bound_is_the_sum_of_both_parts() -> None:
    torch.manual_seed(0)
    model = VQVAE(VQVAEConfig(width=8, prior_width=16, prior_layers=1, prior_heads=2)).eval()
    x, y = torch.rand(4, 1, 28, 28).mul(255).round() / 127.5 - 1, torch.arange(4)
    losses = [loss.value for loss in model.losses(x, y)]
    torch.testing.assert_close(-model.log_prob(x, y).mean(), losses[0] + losses[1])
    torch.testing.assert_close(model.validation_loss(x, y), losses[0] + losses[1])


def test_an_untrained_prior_is_uniform() -> None:
    model = VQVAE(VQVAEConfig())
    c = random_codes(2, 64)
    torch.testing.assert_close(model.prior.log_prob(c, torch.tensor([0, 9])), torch.full((2,), -49 * math.log(64)))


@pytest.mark.parametrize("change", [{"levels": (1, 4)}, {"levels": ()}, {"prior_heads": 5}, {"width": 0}])
def test_impossible_sizes_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        VQVAEConfig(**change)  # type: ignore[arg-type]


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="temperature"):
        VQVAE(VQVAEConfig()).sample(torch.tensor([1]), noise=Noise(0, [0]), temperature=0.0)
