"""What shows itself in a notebook."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import blobs

from mnistgen import Dataset
from mnistgen.console import Display
from mnistgen.mosaic import by_class, grid, picture, teach
from mnistgen.scoring import Score


def pixels(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)))


def test_a_dataset_shows_ten_of_each_class() -> None:
    data = blobs(30)  # of four classes, so that two have eight images and two seven
    shown = pixels(data._repr_png_())[::2, ::2]
    assert np.array_equal(shown, by_class(data.images, data.labels))
    assert shown.shape == (4 * 30, 10 * 30)
    assert np.array_equal(shown[31:59, 1:29], data.images[1, 0])  # the first of class 1
    assert not shown[31:59, 8 * 30 :].any()  # of which there are eight
    plain = Dataset(data.images, None, 1, "x", "all")
    assert np.array_equal(pixels(plain._repr_png_())[::2, ::2], grid(data.images, 10))


def test_samples_show_themselves_and_other_tensors_do_not() -> None:
    formatters = pytest.importorskip("IPython.core.formatters", reason="IPython is not installed")
    formatter = formatters.DisplayFormatter()
    formatter.active_types = ["text/plain", "image/png"]
    teach(formatter)
    images = blobs(450).images
    shown = formatter.format(images)[0]
    assert np.array_equal(pixels(shown["image/png"])[::2, ::2], grid(images[:400], 20))
    for other in (images[:0], images.float(), images[0], torch.zeros(3)):
        assert picture(other) is None
        assert "image/png" not in formatter.format(other)[0]


def test_a_bar_below_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    display = pytest.importorskip("IPython.display", reason="IPython is not installed")
    drawn: list[str] = []

    class Handle:
        def update(self, page: object) -> None:
            drawn.append(page.data)  # type: ignore[attr-defined]

    monkeypatch.setattr(display, "display", lambda page, display_id: (drawn.append(page.data), Handle())[1])
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with Display("<train>").live() as bar:
        bar.update(0.0, "step 1")
        bar.update(0.1, "step 2")  # too soon to be drawn
        bar.update(1.0, "step 3", last=True)
    assert len(drawn) == 2
    assert drawn[0].startswith("&lt;train&gt; <progress")
    assert 'value="1.0000"' in drawn[1]
    assert "step 3" in drawn[1]


def test_a_score_shows_its_numbers_on_their_scale() -> None:
    protocol = {"evaluators": {"A": "f00d"}, "versions": {}, "layers": ["penultimate"], "n": 4, "class_counts": "x"}
    protocol |= {"reference_n": 4, "reference": "mnist", "reference_hash": "h", "reference_features": "f"}
    protocol |= {"scale": "s", "seed": 0}
    scale = {"floor": {"mean": {"fid.A.penultimate": 0.5}}, "noisy": {"mean": {"fid.A.penultimate": 50.0}}}
    images = blobs(4).images
    score = Score(
        "<mine>", {"fid.A.penultimate": 1.5, "other": 2.0}, scale, protocol, {}, {}, {}, [], images, None, None
    )
    page = score._repr_html_()
    assert "<b>&lt;mine&gt;</b>: 3.0 times the floor" in page
    assert "<td>fid.A.penultimate</td><td>1.5</td><td>0.5</td><td>50</td>" in page
    assert "<td>other</td><td>2</td><td></td><td></td>" in page
    assert "evaluators A f00d" in page
