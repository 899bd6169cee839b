"""Every picture of `mnistgen sample`, by every registered model: drawn where the model offers it, else refused."""

import inspect
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from mnistgen_plugins.diffusion import base
from tiny import blobs

from mnistgen import GenerativeModel, UsageError, list_models, load
from mnistgen.checkpoint import Checkpoint, read_checkpoint
from mnistgen.cli.sample_pictures import SampleOptions, draw_picture, rendered
from mnistgen.data import export_data
from mnistgen.model import IMAGE_SHAPE, HasDecoder, HasEditing, HasLatents, HasReconstruction, HasTrajectory
from mnistgen.registry import model_class
from mnistgen.sampling import captioned, grid, require_pixels, save_png

# The flags of each picture, what a model needs for it, and its rows and columns of images (None: by its codes).
MODES: dict[str, tuple[dict[str, Any], type | None, tuple[int, int] | None]] = {
    "grid": ({}, None, (2, 3)),
    "interpolate": ({"interpolate": (0, 1)}, HasDecoder, (8, 10)),
    "between": ({"between": ((0, 1), (2, 5))}, HasLatents, (2, 12)),
    "traverse": ({"traverse": True}, HasDecoder, None),
    "coordinate": ({"traverse": True, "coordinate": 1}, HasDecoder, (2, 11)),
    "reconstruct": ({"reconstruct": True}, HasReconstruction, (6, 2)),
    "trajectory": ({"trajectory": True}, HasTrajectory, (6, 3)),
    "fixed-latent": ({"fixed_latent": True}, None, (3, 2)),
    "inpaint": ({"inpaint": "left"}, HasEditing, (5, 2)),
    "vary": ({"vary": (0.2, 0.8)}, HasEditing, (7, 2)),
}


@cache
def small(name: str) -> GenerativeModel:
    """An untrained model with a network of few channels."""
    cls = model_class(name)
    values = {"width": 16, "prior_width": 16, "prior_layers": 1, "prior_heads": 2}
    torch.manual_seed(0)
    model = cls(cls.Config(**{f.name: values[f.name] for f in fields(cls.Config) if f.name in values}), 4)
    model.prepare(blobs(40).images)
    return model.eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "blobs.npz"
    export_data(blobs(40), path, "npz")
    return path


def options_of(mode: str, data: Path | None, **values: Any) -> SampleOptions:
    flags = {**MODES[mode][0], **values}
    if MODES[mode][1] in (HasEditing, HasReconstruction, HasLatents) and data is not None:
        flags |= {"data": str(data), "split": "all"}
    return SampleOptions(source="x", digits="0-1", per_digit=3, quiet=True, **flags)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", list_models())
def test_every_picture(name: str, mode: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "ODE_STEPS", 2)
    model, (_, ability, shape) = small(name), MODES[mode]
    options = options_of(mode, data)
    sampling = {"steps": 3} if "steps" in inspect.signature(model.sample).parameters else {}
    offered = ability is None or isinstance(model, ability)
    if mode in ("traverse", "coordinate") and offered:
        offered = model.latent_shape != IMAGE_SHAPE
    about = Checkpoint(config={}, num_classes=4)
    if not offered:
        with pytest.raises(UsageError, match=type(model).__name__):
            draw_picture(model, about, options, sampling, moving=False)
        return
    picture = draw_picture(model, about, options, sampling, moving=False)
    frame = picture.frames[0]
    if shape is None:
        shape = (min(64, torch.Size(model.latent_shape).numel()), 11)
    if mode == "trajectory" and not sampling:  # as many steps as it has, of which twelve are shown
        shape = (shape[0], 12)
    assert frame.shape == (30 * shape[0], 30 * shape[1])
    assert len(picture.rows) in (0, shape[0])
    assert len(picture.columns) in (0, shape[1])
    page = rendered(picture, options)[0]
    assert torch.equal(page[-60 * shape[0] :: 2, -60 * shape[1] :: 2], frame)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", list_models())
def test_every_picture_of_the_shipped_checkpoints(name: str, mode: str, mnist: Any) -> None:
    model, about = load(f"{name}-mnist"), read_checkpoint(f"{name}-mnist")
    try:
        picture = draw_picture(model, about, options_of(mode, None), {}, moving=False)
    except UsageError:
        assert MODES[mode][1] is not None  # each draws a grid, and what the same noise comes to
    else:
        assert picture.frames[0].float().std() > 10


def test_captions_stand_beside_the_grid_and_leave_it_as_it_is() -> None:
    images = torch.randint(0, 256, (6, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = grid(images, 3)
    assert torch.equal(captioned(plain, scale=2)[::2, ::2], plain)
    page = captioned(plain, ["first", "second"], ["1", "two", "a word that is much too long"], title="all", scale=2)
    assert torch.equal(page[-120::2, -180::2], plain)
    left, top = page.shape[1] - 180, page.shape[0] - 120
    assert all(page[top + 60 * row : top + 60 * (row + 1), :left].any() for row in range(2))
    assert all(page[:top, left + 60 * column : left + 60 * (column + 1)].any() for column in range(3))
    assert not page[top : top + 20, :left].any()  # the words are in the middle of their rows


def test_pictures_that_nobody_could_open(tmp_path: Path) -> None:
    image = torch.zeros(30, 30, dtype=torch.uint8)
    for draw in (lambda: save_png(tmp_path / "a.png", image, scale=10**6), lambda: captioned(image, scale=10**6)):
        with pytest.raises(UsageError, match="larger than what Pillow and most viewers open"):
            draw()
    with pytest.raises(UsageError, match="scale is 0"):
        require_pixels(1, 0)
    assert not (tmp_path / "a.png").exists()
