"""The VQ-VAE: its quantizer and its prior, against values computed another way."""

import math

import pytest
import torch
import torch.nn.functional as F
from mnistgen_plugins.vae.vqvae import FSQ, SIDE, VQVAE, Transformer, VQVAEConfig, likeliest, nll, usage
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


@pytest.mark.parametrize("levels", LEVELS)
def test_the_softened_choice_is_a_distribution_around_the_hard_one(levels: tuple[int, ...]) -> None:
    quantizer = FSQ(levels)
    h = torch.randn(20, len(levels), 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    q = quantizer.nearness(h)
    torch.testing.assert_close(q.sum(-1), torch.ones(20, 3, 3))
    assert torch.equal(q.argmax(-1), quantizer.codes_of(quantizer(h).detach()))
    q[..., 0].sum().backward()
    assert h.grad is not None
    assert float(h.grad.abs().max()) > 0


def test_the_encoder_is_asked_for_codes_that_the_prior_foretells() -> None:
    """With a prior that knows only code 0, the rate's gradient moves the encoder towards code 0."""
    quantizer = FSQ((4, 4))
    h = torch.randn(1, 2, 7, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    cost = torch.ones(16)
    cost[0] = 0.0
    for _ in range(200):
        (gradient,) = torch.autograd.grad((quantizer.nearness(h) * cost).sum(), h)
        h = (h - 0.5 * gradient).detach().requires_grad_()
    before = quantizer.codes_of(quantizer(torch.randn_like(h)).detach())
    after = quantizer.codes_of(quantizer(h).detach())
    assert int((after == 0).sum()) > int((before == 0).sum())


def test_no_place_sees_its_own_code_or_a_later_one() -> None:
    network, y = prior(), torch.tensor([1])
    c = random_codes(1, 6)
    logits = network(c, y)
    for place in (0, 6, 7, 24, 48):
        changed = c.clone()
        changed[0, place] = (c[0, place] + 1) % 6
        moved = (network(changed, y) - logits).abs().amax((0, 2)) > 1e-6
        assert not moved[: place + 1].any()
        assert moved[place + 1 :].all()


def test_what_enters_is_the_code_before_and_the_three_above() -> None:
    network, codes = prior(), 6
    c = random_codes(1, codes)
    grid = c.view(SIDE, SIDE)
    rows = torch.full((SIDE + 2, SIDE + 2), codes)  # a frame of "none there"
    rows[1:-1, 1:-1] = grid
    h = network._enter(c, torch.tensor([2]), slice(None)) - network.embedding.weight[2] - network.positions
    for place in range(SIDE * SIDE):
        r, k = place // SIDE + 1, place % SIDE + 1
        before = c[0, place - 1] if place else torch.tensor(codes)
        known = (before, rows[r - 1, k - 1], rows[r - 1, k], rows[r - 1, k + 1])
        expected = sum(table.weight[int(code)] for table, code in zip(network.neighbours, known, strict=True))
        torch.testing.assert_close(h[0, place], expected, rtol=0, atol=1e-5)


def test_nll_is_minus_the_sum_of_the_logarithms() -> None:
    logits, c = torch.randn(3, 49, 5), random_codes(3, 5)
    expected = -logits.log_softmax(-1).gather(-1, c[..., None]).sum((1, 2))
    torch.testing.assert_close(nll(logits, c), expected)


@pytest.mark.parametrize(
    ("guidance_scale", "top_p", "temperature"), [(1.0, 1.0, 1.0), (1.0, 1.0, 0.5), (1.7, 1.0, 1.0), (1.7, 0.6, 0.9)]
)
def test_sampling_with_a_memory_draws_from_the_whole_model(
    guidance_scale: float, top_p: float, temperature: float
) -> None:
    """The same noise, through the model run anew on all places, picks the same codes."""
    network, y = prior(), torch.tensor([2, 0, 1, 1])
    with torch.no_grad():
        drawn = network.sample(y, Noise(3, range(4)), guidance_scale, top_p, temperature)
        given, free = network(drawn, y).log_softmax(-1), network(drawn, torch.zeros(4, 3)).log_softmax(-1)
    logits = (free + guidance_scale * (given - free)) / temperature
    noise = Noise(3, range(4))
    again = torch.stack([noise.categorical(likeliest(logits[:, i], top_p)) for i in range(SIDE * SIDE)], 1)
    assert torch.equal(drawn, again)
    assert torch.equal(drawn, network.sample(y, Noise(3, range(4)), guidance_scale, top_p, temperature))


def test_the_likeliest_codes_are_the_fewest_that_have_the_share() -> None:
    p = torch.tensor([[0.1, 0.5, 0.15, 0.25], [0.25, 0.25, 0.25, 0.25]])
    kept = {share: likeliest(p.log(), share).isfinite().tolist() for share in (1e-6, 0.6, 0.8, 0.95, 1.0)}
    assert [rows[0] for rows in kept.values()] == [
        [False, True, False, False],
        [False, True, False, True],
        [False, True, True, True],
        [True, True, True, True],
        [True, True, True, True],
    ]
    assert [sum(rows[1]) for rows in kept.values()] == [1, 3, 4, 4, 4]
    torch.testing.assert_close(likeliest(p.log(), 0.6)[0, 1], p.log()[0, 1])


def test_guidance_raises_what_the_class_adds_to_the_odds() -> None:
    """With odds a of code 1 in class 0 and odds b without a class, guidance s gives b (a / b)^s."""
    network = Transformer(2, 1, width=4, layers=1, heads=1).eval()
    with torch.no_grad():
        network.positions.zero_()
        for table in network.neighbours:
            table.weight.zero_()  # type: ignore[operator]
        network.embedding.weight.copy_(torch.tensor([[1.0, -1.0, 0.0, 0.0]]))
        network.out.weight[1] = torch.tensor([0.3, -0.3, 0.0, 0.0])
        c, y = random_codes(1, 2), torch.zeros(2000, dtype=torch.int64)
        given, free = (network(c, classes)[0, 0] for classes in (torch.ones(1, 1), torch.zeros(1, 1)))
        log_a, log_b = (float(logits[1] - logits[0]) for logits in (given, free))
        share = float(network.sample(y, Noise(0, range(2000)), 2.5, 1.0, 1.0).float().mean())
    assert log_a > log_b + 0.2
    assert share == pytest.approx(1 / (1 + math.exp(-(log_b + 2.5 * (log_a - log_b)))), abs=0.01)


def test_no_class_is_told_for_a_share_of_the_training_images() -> None:
    model = VQVAE(VQVAEConfig(label_dropout=0.3, prior_width=16, prior_layers=1))
    y = torch.arange(10).repeat(1000)
    torch.manual_seed(0)
    weights = model.train().some_labels(y)
    told = weights.sum(1)
    assert float((told == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(weights[told == 1].argmax(1), y[told == 1])
    assert torch.equal(model.eval().some_labels(y), F.one_hot(y, 10).float())


def test_the_bound_is_the_sum_of_both_parts() -> None:
    torch.manual_seed(0)
    model = VQVAE(VQVAEConfig(width=8, prior_width=16, prior_layers=1, prior_heads=2)).eval()
    x, y = torch.rand(4, 1, 28, 28).mul(255).round() / 127.5 - 1, torch.arange(4)
    autoencoder, prior = model.losses(x, y)
    expected = autoencoder.logs["reconstruction"] + prior.value
    torch.testing.assert_close(-model.log_prob(x, y).mean(), expected)
    torch.testing.assert_close(model.validation_loss(x, y), expected)


def test_an_untrained_prior_is_uniform() -> None:
    model = VQVAE(VQVAEConfig())
    c = random_codes(2, 16)
    torch.testing.assert_close(nll(model.prior(c, torch.tensor([0, 9])), c), torch.full((2,), 49 * math.log(16)))


@pytest.mark.parametrize("change", [{"levels": (1, 4)}, {"levels": ()}, {"prior_heads": 7}, {"width": 0}])
def test_impossible_sizes_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        VQVAEConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"guidance_scale": 0.9}])
def test_impossible_knobs_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        VQVAE(VQVAEConfig()).sample(torch.tensor([1]), noise=Noise(0, [0]), **option)
