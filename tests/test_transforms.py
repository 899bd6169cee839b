"""Augmentation against mathematics: the identity, whole-pixel shifts, quarter turns, and the laws of its randomness."""

import pytest
import torch
from torch import Tensor

from mnistgen import UsageError
from mnistgen.transforms import Distortion, affine, distort, knot_count, smooth, warp

STRONG = Distortion(rotation=20, zoom=0.2, shear=0.2, translation=3, elastic=1.5)


def images(b: int = 8, size: int = 28, seed: int = 0) -> Tensor:
    """Random ink inside a margin of background."""
    x = torch.full((b, 1, size, size), -1.0)
    generator = torch.Generator().manual_seed(seed)
    x[..., 6:-6, 6:-6] = 2 * torch.rand(b, 1, size - 12, size - 12, generator=generator) - 1
    return x


def of(b: int, **values: float) -> Tensor:
    """The affine map of b images with these parameters, the others those of the identity."""
    parameters = {"angle": 0.0, "scale_x": 1.0, "scale_y": 1.0, "shear": 0.0, "dx": 0.0, "dy": 0.0} | values
    return affine(**{name: torch.full((b,), float(value)) for name, value in parameters.items()})


def test_the_identity() -> None:
    x = images()
    assert torch.equal(distort(x, Distortion()), x)
    torch.testing.assert_close(of(1)[0], torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    torch.testing.assert_close(warp(x, of(8)), x, atol=2e-5, rtol=0)
    torch.testing.assert_close(warp(x, None, torch.zeros(8, 2, 28, 28)), x, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (-3, 2), (5, -5)])
def test_whole_pixels_are_a_shift(dx: int, dy: int) -> None:
    x = images()
    torch.testing.assert_close(warp(x, of(8, dx=dx, dy=dy)), x.roll((dy, dx), (2, 3)), atol=2e-5, rtol=0)


def test_what_is_shifted_in_is_background() -> None:
    white = torch.ones(1, 1, 28, 28)
    moved = warp(white, of(1, dx=4))
    assert (moved[..., :4] == -1).all()
    torch.testing.assert_close(moved[..., 4:], white[..., 4:])


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns(turns: int) -> None:
    x = images()
    torch.testing.assert_close(warp(x, of(8, angle=90 * turns)), x.rot90(turns, (2, 3)), atol=1e-4, rtol=0)


def test_size_and_shear() -> None:
    square = torch.full((1, 1, 28, 28), -1.0)
    square[..., 10:18, 10:18] = 1
    wide = (warp(square, of(1, scale_x=2.0)) + 1).sum((0, 1)) / 2
    torch.testing.assert_close(wide.sum(), torch.tensor(8 * 16.0), atol=0.1, rtol=0)
    assert (wide[14] > 0.5).sum() == 16
    assert (wide[:, 14] > 0.5).sum() == 8
    sheared = warp(square, of(1, shear=0.5)) > 0
    columns = torch.arange(28.0)
    middles = [(columns[row].sum() / row.sum()) for row in sheared[0, 0, 10:18]]
    slope = (middles[-1] - middles[0]) / 7
    assert 0.4 < slope < 0.6  # the bottom goes right, by half of the height


def test_an_affine_map_in_words_is_its_parts_one_after_the_other() -> None:
    def matrix(**values: float) -> Tensor:
        return torch.cat([of(1, **values)[0], torch.tensor([[0.0, 0, 1]])])

    whole = matrix(angle=33, scale_x=1.2, scale_y=0.8, shear=0.3, dx=2, dy=-1)
    # places are mapped backwards, so the last step comes first
    parts = matrix(scale_x=1.2, scale_y=0.8) @ matrix(shear=0.3) @ matrix(angle=33) @ matrix(dx=2, dy=-1)
    torch.testing.assert_close(whole, parts)


def test_a_displacement_moves_what_is_read() -> None:
    x, displacement = images(), torch.zeros(8, 2, 28, 28)
    displacement[:, 0] = 2  # read two pixels to the right
    torch.testing.assert_close(warp(x, None, displacement), x.roll(-2, 3), atol=2e-5, rtol=0)
    torch.testing.assert_close(warp(x, of(8, dx=2), displacement), x, atol=2e-5, rtol=0)


def test_elastic_displacements_are_smooth_and_of_variance_one() -> None:
    torch.manual_seed(0)
    field = smooth(torch.randn(4000, 2, knot_count(28), knot_count(28)), 28, 28)
    torch.testing.assert_close(field.std(0), torch.ones(2, 28, 28), atol=0.06, rtol=0)
    neighbours = (field[..., 1:] * field[..., :-1]).mean()
    assert 0.95 < neighbours < 1
    assert (field[..., 16:] * field[..., :-16]).mean().abs() < 0.1  # far pixels move on their own


@pytest.mark.parametrize(
    "by",
    [
        Distortion(rotation=20),
        Distortion(zoom=0.2),
        Distortion(shear=0.3),
        Distortion(translation=3),
        Distortion(elastic=1),
        STRONG,
    ],
)
def test_each_image_has_parameters_of_its_own(by: Distortion) -> None:
    torch.manual_seed(0)
    x = images(1).expand(16, -1, -1, -1)
    distorted = distort(x, by)
    assert distorted.shape == x.shape
    assert len({tuple(image.flatten().tolist()) for image in distorted}) == 16
    assert distorted.min() == -1
    assert distorted.max() <= 1
    assert (distorted[..., 0, 0] == -1).all()


def test_a_share_of_the_images_stays_as_it_is() -> None:
    x = images(400)
    torch.manual_seed(0)
    same = (distort(x, Distortion(rotation=20, untouched=0.3)) == x).flatten(1).all(1)
    assert 0.22 < float(same.double().mean()) < 0.38
    assert torch.equal(distort(x, Distortion(rotation=20, untouched=1.0)), x)
    assert not (distort(x, Distortion(rotation=20)) == x).flatten(1).all(1).any()


def test_an_empty_image_stays_empty() -> None:
    assert (distort(torch.full((4, 1, 28, 28), -1.0), STRONG) == -1).all()


def test_parameters_stay_in_their_bounds() -> None:
    torch.manual_seed(0)
    dot = torch.full((500, 1, 29, 29), -1.0)
    dot[..., 14, 14] = 1
    ink = (distort(dot, Distortion(translation=3)) + 1).sum(1)
    places = torch.arange(29) - 14.0
    for axis in (1, 2):
        mean = (ink.sum(3 - axis) * places).sum(1) / ink.sum((1, 2))
        assert mean.abs().max() <= 3
        assert mean.abs().max() > 2.5
        assert mean.mean().abs() < 0.3


def test_the_seed_decides() -> None:
    x = images()

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return distort(x, STRONG)

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


def test_autocast_does_not_blur_places() -> None:
    x = images()
    torch.manual_seed(0)
    full = distort(x, STRONG)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distort(x, STRONG), full)


def test_memory_format_and_other_shapes() -> None:
    x = images()
    torch.manual_seed(0)
    plain = distort(x, STRONG)
    torch.manual_seed(0)
    assert torch.equal(distort(x.contiguous(memory_format=torch.channels_last), STRONG), plain)
    assert distort(torch.zeros(0, 1, 28, 28), STRONG).shape == (0, 1, 28, 28)
    assert distort(torch.zeros(2, 3, 32, 20), STRONG).shape == (2, 3, 32, 20)


@pytest.mark.parametrize("wrong", [{"rotation": -1.0}, {"zoom": 1.0}, {"elastic": float("nan")}])
def test_impossible_distortions(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Distortion(**wrong)
