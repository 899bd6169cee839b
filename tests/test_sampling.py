"""Seeds, grids and walks in latent space."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import Duel, Tiny, TinyConfig

import mnistgen
from mnistgen import Noise, UsageError, grid, interpolate, sample, save_png, traverse
from mnistgen.sampling import reconstruct, slerp


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


def test_interpolation_and_traversal(model: Tiny) -> None:
    walk = interpolate(model, 0, 3, steps=5, rows=2, seed=1).view(2, 5, 1, 28, 28)
    z = Noise(1, range(4)).normal(3)
    ends = [(0, 0, z[0], 0), (0, -1, z[2], 3), (1, 0, z[1], 0), (1, -1, z[3], 3)]
    for row, column, code, label in ends:
        with torch.no_grad():
            expected = mnistgen.to_uint8(model.decode(code[None], torch.tensor([label])))
        assert (walk[row, column].int() - expected[0].int()).abs().max() <= 1
    rows = traverse(model, 2, steps=5, seed=1).view(3, 5, 1, 28, 28)
    code = Noise(1, [0]).normal(3)[0]
    code[1] = -3.0
    with torch.no_grad():
        expected = mnistgen.to_uint8(model.decode(code[None], torch.tensor([2])))
    assert (rows[1, 0].int() - expected[0].int()).abs().max() <= 1
    assert reconstruct(model, torch.zeros(3, 1, 28, 28), torch.tensor([0, 1, 2])).shape == (3, 1, 28, 28)
    with pytest.raises(UsageError, match="no latent codes"):
        interpolate(Duel(TinyConfig(), 4), 0, 1)


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
