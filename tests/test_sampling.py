"""Seeds, grids and walks in latent space."""

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import Duel, Tiny, TinyConfig, Walker, blobs
from torch import Tensor

from mnistgen import BaseConfig, ContractError, GenerativeModel, Loss, Noise, PluginError, UsageError, sample
from mnistgen.data import to_float, to_uint8
from mnistgen.model import HasDecoder, HasLatents, HasPath
from mnistgen.sampling import (
    REGIONS,
    fixed_latent,
    grid,
    inpaint,
    interpolate,
    interpolate_images,
    manifold,
    reconstruct,
    reconstructions,
    region,
    sample_trajectory,
    save_png,
    slerp,
    sweep,
    traverse,
    traverse_coordinate,
    vary,
)


class Decoder(GenerativeModel, HasDecoder):
    """An image whose first pixels are the code in [-4, 4]^2, and whose second row begins with the class weights."""

    conditional = True

    def __init__(self, latent_shape: tuple[int, ...] = (2,)) -> None:
        super().__init__(BaseConfig(), num_classes=4)
        self.latent_shape = latent_shape

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        yield Loss(x.mean(), self)

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return self.decode(noise.normal(*self.latent_shape), y)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        weights = y if y.is_floating_point() else torch.nn.functional.one_hot(y, 4)
        images = torch.zeros(len(z), 1, 28, 28)
        images[:, 0, 0, : z[0].numel()] = z.flatten(1) / 4
        images[:, 0, 1, :4] = weights.float()
        return images


class Coder(Decoder, HasLatents):
    """`Decoder`, and its inverse."""

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return 4 * x[:, 0, 0, :2].view(-1, *self.latent_shape)


def codes(images: Tensor) -> Tensor:
    """What `Decoder` decoded, (n, 2), but for the rounding of pixels to 4 / 255."""
    assert images.dtype == torch.uint8
    return 4 * to_float(images)[:, 0, 0, :2]


def weights(images: Tensor) -> Tensor:
    """The class weights that `Decoder` decoded, (n, 4), but for the rounding of pixels to 1 / 255."""
    return to_float(images)[:, 0, 1, :4]


@pytest.fixture
def model() -> Tiny:
    torch.manual_seed(0)
    return Tiny(TinyConfig(), num_classes=4)


def test_an_image_depends_on_its_seed_and_place_alone(model: Tiny) -> None:
    labels = torch.arange(40) % 4
    images = sample(model, labels, seed=3)
    assert images.shape == (40, 1, 28, 28)
    assert images.dtype == torch.uint8
    for size in (1, 7, 40):
        assert (sample(model, labels, seed=3, batch_size=size).int() - images.int()).abs().max() <= 1
    torch.manual_seed(5)  # the global random state has no part in it
    assert torch.equal(sample(model, labels, seed=3), images)
    assert torch.equal(sample(model, labels[:10].tolist(), seed=3), images[:10])
    assert not torch.equal(sample(model, labels, seed=4), images)
    assert sample(model, []).shape == (0, 1, 28, 28)


def test_sampling_leaves_the_mode_of_the_model(model: Tiny) -> None:
    for training in (True, False):
        model.train(training)
        sample(model, [0])
        assert model.training is training
    assert not torch.equal(sample(model, [1], temperature=0.0), sample(model, [1]))


def test_labels_are_checked(model: Tiny) -> None:
    for labels in ([4], [-1], [0, 9]):
        with pytest.raises(UsageError, match="knows 0 to 3"):
            sample(model, labels)
    with pytest.raises(UsageError, match="row of integers"):
        sample(model, torch.zeros(2, 2, dtype=torch.int64))


class TestNoise:
    def test_distribution(self) -> None:
        normal = Noise(0, range(200)).normal(500)
        assert abs(float(normal.mean())) < 4 / 1e5**0.5
        assert float(normal.var()) == pytest.approx(1, abs=0.02)
        uniform = Noise(1, range(200)).uniform(500)
        assert float(uniform.mean()) == pytest.approx(0.5, abs=0.005)
        assert 0 <= float(uniform.min()) < float(uniform.max()) < 1
        # Streams of different images are independent.
        assert np.abs(np.corrcoef(normal.numpy())[np.triu_indices(200, 1)]).max() < 0.25

    def test_categorical_follows_its_logits(self) -> None:
        logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(20000, 3)
        counts = torch.bincount(Noise(0, range(20000)).categorical(logits), minlength=3) / 20000
        assert torch.allclose(counts, torch.tensor([0.1, 0.2, 0.7]), atol=0.015)

    def test_streams(self) -> None:
        both, second = Noise(9, [0, 1]), Noise(9, [1])
        assert torch.equal(both.normal(2, 3)[1:], second.normal(2, 3))
        assert torch.equal(both.uniform()[1:], second.uniform())
        assert not torch.equal(Noise(9, [0]).normal(4), Noise(9, [1]).normal(4))
        assert not torch.equal(Noise(8, [0]).normal(4), Noise(9, [0]).normal(4))


def test_slerp_is_the_great_circle() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.nn.functional.normalize(torch.randn(2, 5, 1, 6, generator=generator), dim=-1)
    t = torch.linspace(0, 1, 7).view(1, -1, 1)
    path = slerp(a, b, t)
    torch.testing.assert_close(path[:, 0], a[:, 0])
    torch.testing.assert_close(path[:, -1], b[:, 0])
    torch.testing.assert_close(path.norm(dim=-1), torch.ones(5, 7))
    angles = (path[:, 1:] * path[:, :-1]).sum(-1).clamp(-1, 1).acos()
    torch.testing.assert_close(angles, angles[:, :1].expand_as(angles), rtol=1e-3, atol=1e-4)


def test_slerp_changes_the_length_in_proportion() -> None:
    for angle in (0.0, 0.3, 2.0, 3.1, 3.1415, math.pi):  # 3 and 0.5 long, up to opposite
        a, b = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.5 * math.cos(angle), 0.5 * math.sin(angle)]]])
        path = slerp(a, b, torch.linspace(0, 1, 11).view(1, -1, 1))
        torch.testing.assert_close(path[:, [0, -1]], torch.cat([a, b], 1), rtol=0, atol=1e-5)
        assert float(path.norm(dim=-1).max()) <= 3.001
        if angle < 3.14:  # exactly opposite, the circle is not defined
            torch.testing.assert_close(path.norm(dim=-1)[0], torch.linspace(3, 0.5, 11), rtol=1e-3, atol=1e-3)
    from_zero = slerp(torch.zeros(1, 1, 2), torch.ones(1, 1, 2), torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1))
    assert from_zero.isfinite().all()
    torch.testing.assert_close(from_zero[0, [0, 2]], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


def test_slerp_of_codes_of_any_shape_is_that_of_the_flattened_ones() -> None:
    a, b = torch.randn(2, 3, 1, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0, 1, 5)
    path = slerp(a, b, t.view(1, 5, 1, 1, 1))
    assert path.shape == (3, 5, 1, 4, 5)
    torch.testing.assert_close(path.flatten(2), slerp(a.flatten(2), b.flatten(2), t.view(1, 5, 1)))
    assert interpolate(Decoder((1, 3, 2)), 0, 1).shape == (80, 1, 28, 28)


def test_interpolation_and_traversal(model: Tiny) -> None:
    walk = interpolate(model, 0, 3, steps=5, rows=2, seed=1).view(2, 5, 1, 28, 28)
    z = Noise(1, range(4)).normal(3)
    ends = [(0, 0, z[0], 0), (0, -1, z[2], 3), (1, 0, z[1], 0), (1, -1, z[3], 3)]
    for row, column, code, label in ends:
        with torch.no_grad():
            expected = to_uint8(model.decode(code[None], torch.tensor([label])))
        assert (walk[row, column].int() - expected[0].int()).abs().max() <= 1
    rows = traverse(model, 2, steps=5, seed=1).view(3, 5, 1, 28, 28)
    code = Noise(1, [0]).normal(3)[0]
    code[1] = -3.0
    with torch.no_grad():
        expected = to_uint8(model.decode(code[None], torch.tensor([2])))
    assert (rows[1, 0].int() - expected[0].int()).abs().max() <= 1
    assert reconstruct(model, torch.zeros(3, 1, 28, 28), torch.tensor([0, 1, 2])).shape == (3, 1, 28, 28)
    with pytest.raises(UsageError, match="no latent codes"):
        interpolate(Duel(TinyConfig(), 4), 0, 1)


def test_one_coordinate_is_traversed_for_each_class(model: Tiny) -> None:
    rows = traverse_coordinate(model, 1, [3, 0], steps=5, seed=1).view(2, 5, 1, 28, 28)
    for row, label in zip(rows, (3, 0), strict=True):  # the row of that coordinate among all of them
        assert (row.int() - traverse(model, label, steps=5, seed=1)[5:10].int()).abs().max() <= 1
    images = traverse_coordinate(Coder(), 0, [2, 1], steps=7, span=2.0, seed=5)
    torch.testing.assert_close(codes(images)[:, 0].view(2, 7), torch.linspace(-2, 2, 7).expand(2, 7), rtol=0, atol=0.02)
    other = Noise(5, [0]).normal(2)[0, 1]
    torch.testing.assert_close(codes(images)[:, 1], other.expand(14), rtol=0, atol=0.02)
    assert weights(images).argmax(1).tolist() == [2] * 7 + [1] * 7
    for coordinate in (3, -1):
        with pytest.raises(UsageError, match=f"no coordinate {coordinate}; this model's codes have 0 to 2"):
            traverse_coordinate(model, coordinate, [0])


@pytest.mark.parametrize("latent_shape", [(2,), (2, 1, 1)])
def test_the_manifold_is_the_quantiles_of_both_coordinates(latent_shape: tuple[int, ...]) -> None:
    images = manifold(Decoder(latent_shape), 3, steps=5)
    assert images.shape == (25, 1, 28, 28)
    first, second = codes(images).view(5, 5, 2).unbind(-1)  # (row, column)
    quantiles = torch.tensor([NormalDist().inv_cdf(p) for p in (0.1, 0.3, 0.5, 0.7, 0.9)])
    torch.testing.assert_close(first, quantiles.expand(5, 5), rtol=0, atol=0.02)
    torch.testing.assert_close(second, quantiles.flip(0)[:, None].expand(5, 5), rtol=0, atol=0.02)
    assert weights(images).argmax(1).tolist() == [3] * 25
    assert manifold(Decoder(), 0).shape == (400, 1, 28, 28)  # more than one batch


def test_a_walk_between_images() -> None:
    ends = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[-1.0, 2.0], [-1.0, 2.0]], [[2.0, 0.0], [-0.5, 0.02]]])
    labels = torch.tensor([[2, 0], [1, 1], [3, 2]])
    images = Decoder().decode(ends.flatten(0, 1), labels.flatten())
    images[:, :, 20, 20] = -1.0  # what is not in the code is in the originals alone
    rows = interpolate_images(Coder(), images.unflatten(0, (3, 2)), labels, steps=7).unflatten(0, (3, 9))
    assert torch.equal(rows[:, [0, -1]].flatten(0, 1), to_uint8(images))
    walk = rows[:, 1:-1].flatten(0, 1)
    assert (walk[:, :, 20, 20] == 128).all()
    t = torch.linspace(0, 1, 7)
    angle, length = torch.pi / 2 * t, 3 - 2 * t
    first, same, opposite = codes(walk).view(3, 7, 2)
    circle = torch.stack([length * angle.cos(), length * angle.sin()], 1)
    torch.testing.assert_close(first, circle, rtol=0, atol=0.02)
    torch.testing.assert_close(same, ends[1, :1].expand(7, 2), rtol=0, atol=0.02)
    torch.testing.assert_close(
        opposite.norm(dim=1), torch.lerp(ends[2, 0].norm(), ends[2, 1].norm(), t), atol=0.03, rtol=0
    )
    expected = torch.zeros(7, 4)
    expected[:, 2], expected[:, 0] = 1 - t, t
    torch.testing.assert_close(weights(walk)[:7], expected, rtol=0, atol=0.005)


def test_a_walk_begins_and_ends_with_the_reconstructions(model: Tiny) -> None:
    data = blobs(300)
    places = torch.tensor([[5, 290], [7, 12], [291, 6]])
    images, labels = to_float(data.images[places]), data.labels[places]
    rows = interpolate_images(model, images, labels, steps=4).unflatten(0, (3, 6))
    ends = reconstruct(model, images.flatten(0, 1), labels.flatten()).unflatten(0, (3, 2))
    assert (rows[:, [1, -2]].int() - ends.int()).abs().max() <= 1
    assert torch.equal(rows[:, [0, -1]], data.images[places])
    assert not torch.equal(rows[:, 1], rows[:, 2])


def test_originals_stand_above_their_reconstructions(model: Tiny) -> None:
    data = blobs(300)  # more than one batch
    made = reconstruct(model, to_float(data.images), data.labels)
    with torch.no_grad():
        x = to_float(data.images)
        expected = to_uint8(model.eval().decode(model.encode(x, data.labels), data.labels))
    assert (made.int() - expected.int()).abs().max() <= 1
    rows = reconstructions(model, x[:5], data.labels[:5], columns=3).unflatten(0, (2, 2, 3))  # row, which, column
    assert torch.equal(rows[0, 0], data.images[:3])
    assert torch.equal(rows[1, 0, :2], data.images[3:5])
    assert (rows[0, 1].int() - made[:3].int()).abs().max() <= 1
    assert (rows[1, 1, :2].int() - made[3:5].int()).abs().max() <= 1
    assert (rows[1, :, 2] == 0).all()
    assert reconstructions(model, x[:6], data.labels[:6], columns=3).shape == (12, 1, 28, 28)


def test_latent_pictures_say_what_is_wrong(model: Tiny) -> None:
    with pytest.raises(UsageError, match=r"this model's have 3; train one that has: .* --latent-dim 2"):
        manifold(model, 0)
    with pytest.raises(UsageError, match="no label 4"):
        manifold(Coder(), 4)
    images, labels = torch.zeros(2, 1, 28, 28), torch.tensor([0, 1])
    for wrong, y in ((to_uint8(images), labels), (images[:, 0], labels), (images, labels[:1])):
        with pytest.raises(UsageError, match=r"Images are \(n, 1, 28, 28\) float in \[-1, 1\]"):
            reconstruct(model, wrong, y)
    with pytest.raises(UsageError, match="no label 9"):
        reconstruct(model, images, torch.tensor([0, 9]))
    for wrong, y in ((images, labels), (images[None], labels), (images[:, None], labels[:, None])):
        with pytest.raises(UsageError, match=r"Pairs are images \(rows, 2, 1, 28, 28\) and labels \(rows, 2\)"):
            interpolate_images(model, wrong, y)
    for without in (Duel(TinyConfig(), 4), Decoder()):
        with pytest.raises(UsageError, match=f"{type(without).__name__} has no latent codes of given images"):
            interpolate_images(without, images[None], labels[None])
        with pytest.raises(UsageError, match="no latent codes of given images"):
            reconstructions(without, images, labels)
    for draw in (manifold, traverse, lambda model, label: traverse_coordinate(model, label, [0])):
        with pytest.raises(UsageError, match="Duel has no latent codes, so there is nothing"):
            draw(Duel(TinyConfig(), 4), 0)
    assert interpolate(Decoder(), 0, 1).shape == (80, 1, 28, 28)  # codes of its own are enough


def test_grid_and_png(tmp_path) -> None:
    images = torch.stack([torch.full((1, 28, 28), 20 * i, dtype=torch.uint8) for i in range(1, 6)])
    image = grid(images, 3, padding=2)
    assert image.shape == (60, 90)
    assert [int(image[15 + 30 * r, 15 + 30 * c]) for r in range(2) for c in range(3)] == [20, 40, 60, 80, 100, 0]
    assert int(image[0, 0]) == 0
    save_png(tmp_path / "deep" / "grid.png", image, {"Seed": "7"}, scale=2)
    with Image.open(tmp_path / "deep" / "grid.png") as picture:
        assert picture.size == (180, 120)
        assert picture.mode == "L"
        assert picture.info["Seed"] == "7"
        assert np.array_equal(np.asarray(picture)[::2, ::2], image.numpy())
    with pytest.raises(UsageError, match="at least one image"):
        grid(images[:0], 3)


@pytest.fixture
def walker() -> Walker:
    torch.manual_seed(0)
    return Walker(TinyConfig(), 4)


def test_a_trajectory_ends_in_the_sample(walker: Walker) -> None:
    steps = sample_trajectory(walker, [0, 1, 2], seed=3, steps=9)
    assert steps.shape == (9, 3, 1, 28, 28)
    assert torch.equal(steps[-1], sample(walker, [0, 1, 2], seed=3))
    few = sample_trajectory(walker, [0, 1, 2], seed=3, frames=4, steps=9)
    assert torch.equal(few, steps[[0, 3, 5, 8]])
    assert torch.equal(sample_trajectory(walker, [0, 1, 2], seed=3, frames=1, steps=9), steps[-1:])
    assert torch.equal(sample_trajectory(walker, [0, 1, 2], seed=3, frames=10, steps=9), steps)
    with pytest.raises(UsageError, match="Duel generates an image in one step"):
        sample_trajectory(Duel(TinyConfig()), [0])


def test_a_sweep_changes_the_option_alone(walker: Walker) -> None:
    images = sweep(walker, [1, 3], "bright", [False, True], seed=5, steps=2).unflatten(0, (2, 2))
    for column, bright in enumerate((False, True)):
        assert torch.equal(images[:, column], sample(walker, [1, 3], seed=5, steps=2, bright=bright))
    assert not torch.equal(images[:, 0], images[:, 1])


def test_a_fixed_latent_for_each_label(walker: Walker) -> None:
    images = fixed_latent(walker, [0, 1, 2, 3], rows=2, seed=7, steps=1).unflatten(0, (2, 4))
    for row in range(2):
        z = Noise(7, [row])
        z.uniform(1, 28, 28)
        z = z.normal(*walker.latent_shape)
        with torch.no_grad():
            expected = to_uint8(walker.eval().decode(z.expand(4, -1), torch.arange(4)))
        assert torch.equal(images[row], expected)


def test_edits_of_given_images(walker: Walker) -> None:
    data = blobs(4)
    x, y = to_float(data.images), data.labels
    for name in REGIONS:
        mask = region(name)
        assert mask.shape == (1, 28, 28)
        assert mask.sum() == (14 * 14 if name == "centre" else 14 * 28)
        images = inpaint(walker, x, y, mask, seed=1)
        assert torch.equal(images[:, ~mask], data.images[:, ~mask])
        assert torch.equal(images[:, mask], sample(walker, y, seed=1)[:, mask])
    assert torch.equal(region("left") | region("right"), region("top") | region("bottom"))
    assert not (region("left") & region("right")).any()
    assert torch.equal(vary(walker, x, y, strength=0.0), data.images)
    assert torch.equal(vary(walker, x, y, strength=1.0, seed=2), sample(walker, y, seed=2))
    assert walker.training


def test_edits_that_there_are_not(walker: Walker) -> None:
    x, y = to_float(blobs(4).images), torch.arange(4)
    with pytest.raises(UsageError, match="no region 'middle'; there are left"):
        region("middle")
    with pytest.raises(UsageError, match="strength is 2"):
        vary(walker, x, y, strength=2)
    for edit in (lambda m, x: inpaint(m, x, y, region("top")), lambda m, x: vary(m, x, y)):
        with pytest.raises(UsageError, match="Duel cannot edit"):
            edit(Duel(TinyConfig()), x)
        with pytest.raises(UsageError, match="with 4"):
            edit(walker, x[:3])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda y: None, "sample.. returns None for 3 labels"),
        (lambda y: np.zeros((len(y), 1, 28, 28), np.float32), r"returns an object of type ndarray \(3, 1, 28, 28\)"),
        (lambda y: torch.zeros(len(y), 784), r"returns a tensor \(3, 784\) float32"),
        (lambda y: torch.zeros(len(y) + 1, 1, 28, 28), r"returns a tensor \(4, 1, 28, 28\)"),
        (lambda y: torch.zeros(len(y), 1, 28, 28, dtype=torch.uint8), "uint8 for 3 labels; it must be"),
        (lambda y: torch.full((len(y), 1, 28, 28), torch.nan), "pixels that are not finite"),
        (lambda y: 1 / 0, r"sample\(\) of Broken fails: ZeroDivisionError: division by zero \(.*test_sampling.py:\d+"),
    ],
)
def test_what_a_plugin_draws_is_held_to_the_contract(found, message: str) -> None:
    class Broken(Tiny):
        def sample(self, y, *, noise):
            return found(y)

    with pytest.raises((ContractError, PluginError), match=message):
        sample(Broken(TinyConfig(), 4), [0, 1, 2])


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("sample_trajectory", lambda model: sample_trajectory(model, [0, 1])),
        ("sample", lambda model: fixed_latent(model, [0, 1], rows=1)),
        ("decode", lambda model: interpolate(model, 0, 1, steps=2, rows=1)),
        ("inpaint", lambda model: inpaint(model, torch.zeros(2, 1, 28, 28), [0, 1], region("left"))),
        ("vary", lambda model: vary(model, torch.zeros(2, 1, 28, 28), [0, 1])),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_every_ability_is_held_to_the_contract(method: str, call, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = (lambda *_, **__: 1 / 0) if fails else (lambda *_, **__: [None] if method == "sample_trajectory" else None)
    monkeypatch.setattr(Walker, method, wrong)
    message = rf"{method}\(\) of Walker fails: ZeroDivisionError" if fails else rf"Walker.{method}\(\) returns None"
    with pytest.raises((ContractError, PluginError), match=message):
        call(Walker(TinyConfig(), 4))


class Former(Walker):
    former_options: ClassVar[dict[str, str]] = {"light": "bright"}


def test_former_names_of_options_and_abilities_work(walker: Walker) -> None:
    model = Former(TinyConfig(), num_classes=4)
    with pytest.warns(DeprecationWarning, match="light is called bright now"):
        images = sample(model, [1], light=True)
    assert torch.equal(images, sample(model, [1], bright=True))

    with pytest.warns(DeprecationWarning, match="HasPath and sample_path are called HasTrajectory"):

        class OfTheLastVersion(Tiny, HasPath):
            def sample_path(self, y: Tensor, *, noise: Noise) -> Iterator[Tensor]:
                yield self.sample(y, noise=noise)

    model = OfTheLastVersion(TinyConfig(), num_classes=4)
    assert torch.equal(sample_trajectory(model, [1])[-1], sample(model, [1]))
