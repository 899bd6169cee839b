"""The autoregressive model beside mathematics: its order, its probabilities, and drawing from what it remembers."""

import pytest
import torch
from mnistgen_plugins.autoregressive.axial import Axial, AxialConfig, features, image_of, levels_of
from tiny import strokes

from mnistgen import Noise, UsageError

SMALL = AxialConfig(width=16, heads=2, layers=2, channels=12, inner_layers=1, above=3, side=4, reach=5)
Y = torch.tensor([3, 5, 7])


@pytest.fixture(scope="module")
def model() -> Axial:
    """A model in float64 whose every weight does something, so that drawing is exact to the last bit that matters."""
    torch.manual_seed(0)
    model = Axial(SMALL).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return strokes(30)[0][Y].double() / 127.5 - 1


def noise(seed: int = 0, n: int = 3) -> Noise:
    return Noise(seed, range(n))


def test_no_pixel_sees_itself_or_one_after_it(
    model: Axial, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    continuous = features(levels_of(images), images).requires_grad_()
    monkeypatch.setattr("mnistgen_plugins.autoregressive.axial.features", lambda *_: continuous)
    hidden = model.hidden(levels_of(images), Y)
    for row, column in ((0, 0), (0, 27), (13, 0), (13, 14), (27, 27)):
        (gradient,) = torch.autograd.grad(hidden[:, row, column].sum(), continuous, retain_graph=True)
        seen = gradient.abs().sum((0, 1)).flatten()
        place = row * 28 + column
        assert not bool(seen[place:].any())
        assert bool(seen[: row * 28].all()), "all rows above are seen"
        if column:
            assert bool(seen[place - 1])


def test_probabilities_of_a_pixel_sum_to_one(model: Axial, images: torch.Tensor) -> None:
    levels = levels_of(images)[:1].repeat(256, 1, 1)
    for row, column in ((27, 27), (27, 3)):
        levels[:, row, column] = torch.arange(256)
        h = model.hidden(levels, Y[:1].expand(256))
        log_p = model.inner.log_prob(h, levels)[:, row, column]
        assert float(log_p.logsumexp(0).detach()) == pytest.approx(0, abs=1e-9)
    whole = model.log_prob(image_of(levels).double(), Y[:1].expand(256)).detach()
    assert torch.allclose(whole, model.inner.log_prob(h, levels).sum((1, 2)).detach())


@torch.no_grad()
def test_images_drawn_from_the_cache_are_those_drawn_from_the_whole_network(model: Axial) -> None:
    frames = list(model.sample_trajectory(Y, noise=noise()))
    levels = levels_of(frames[-1])
    assert len(frames) == 28
    assert 0.1 < float((levels > 0).double().mean()) < 0.9
    hidden, uniform = model.hidden(levels, Y), noise().uniform(28, 28, 2)
    for row in range(28):
        for column in range(28):
            drawn = model.inner.draw(hidden[:, row, column], row, column, uniform[:, row, column], 1.0)
            assert torch.equal(drawn, levels[:, row, column])


@torch.no_grad()
def test_drawn_levels_have_the_probabilities_of_the_model(model: Axial) -> None:
    n, h = 40_000, torch.randn(1, 12, dtype=torch.float64)
    uniform = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    drawn = model.inner.draw(h.expand(n, -1), 5, 6, uniform, 1.0)
    levels = torch.zeros(256, 28, 28, dtype=torch.int64)
    levels[:, 5, 6] = torch.arange(256)
    p = model.inner.log_prob(h.expand(256, 28, 28, 12), levels)[:, 5, 6].exp()
    share = torch.bincount(drawn, minlength=256) / n
    assert float((share - p).abs().max()) < 5 * float((p * (1 - p) / n).sqrt().max())


@torch.no_grad()
def test_the_lower_half_follows_from_the_upper_and_varies_with_the_seed(model: Axial, images: torch.Tensor) -> None:
    known = torch.zeros(1, 1, 28, 28, dtype=torch.bool)
    known[:, :, :14] = True
    first, second = (model.inpaint(images, known, Y, noise=noise(seed)) for seed in (0, 1))
    assert torch.equal(first[:, :, :14], images[:, :, :14])
    assert not torch.equal(first, second)
    everything = torch.ones_like(known)
    assert torch.equal(model.inpaint(images, everything, Y, noise=noise()), images)
    assert torch.equal(model.inpaint(images, ~everything, Y, noise=noise()), model.sample(Y, noise=noise()))
    assert torch.equal(model.vary(images, Y, noise=noise(), strength=0), images)


@torch.no_grad()
def test_a_low_temperature_leaves_the_likeliest_pixels(model: Axial) -> None:
    cold = [model.sample(Y, noise=noise(seed), temperature=1e-6) for seed in (0, 1)]
    assert torch.equal(cold[0], cold[1])
    with pytest.raises(UsageError, match="temperature is 0"):
        model.sample(Y, noise=noise(), temperature=0.0)


@torch.no_grad()
def test_training_begins_at_the_frequencies_of_the_training_images() -> None:
    images, labels = strokes(500)
    model = Axial(SMALL)
    model.prepare(images)
    ink = ((images > 0).double().sum((0, 1)) + 1) / 502
    counts = torch.bincount(images[images > 0].long(), minlength=256)[1:].double() + 1
    levels = images[:50, 0].long()
    of_ink = torch.where(
        levels > 0, ink.log() + (counts / counts.sum()).log()[levels.clamp(min=1) - 1], (1 - ink).log()
    )
    found = model.log_prob(images[:50].float() / 127.5 - 1, labels[:50])
    assert torch.allclose(found.double(), of_ink.sum((1, 2)), atol=1e-2)


def test_grey_levels_come_back() -> None:
    levels = torch.arange(256).repeat(4)[: 28 * 28].view(1, 28, 28)
    assert torch.equal(levels_of(image_of(levels)), levels)
