"""`mnistgen sample` as a user meets it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import mnistgen
from PIL import Image
from tiny import Duel, Tiny, TinyConfig

from mnistgen import load_data, registry, sample, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints/tiny-blobs and checkpoints/duel, as the registered models write them."""
    path = tmp_path_factory.mktemp("sample")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        for name, cls in (("tiny", Tiny), ("duel", Duel)):
            entry = registry.Entry(name, "tiny-models", "1.0", f"tiny:{cls.__name__}")
            patch.setattr(registry, "entry_of", lambda _, entry=entry: entry)
            save(path / "checkpoints" / name, cls(TinyConfig(), num_classes=4))
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))[::2, ::2]


def test_a_grid_of_digits(folder: Path) -> None:
    text = mnistgen(folder, "sample", "tiny", "--digits", "0-3", "--per-digit", "5", "--seed", "3", "--out", "grid.png")
    assert "picture: grid.png" in text
    picture = pixels(folder / "grid.png")
    assert picture.shape == (4 * 30, 5 * 30)
    torch.manual_seed(0)
    images = sample(Tiny(TinyConfig(), 4), torch.arange(4).repeat_interleave(5), seed=3)
    assert np.abs(picture[31:59, 1:29].astype(int) - images[5, 0].numpy()).max() <= 1
    info = Image.open(folder / "grid.png").info
    assert info["Source"].startswith("mnistgen sample tiny --digits 0-3")
    assert info["Seed"] == "3"
    assert json.loads(info["Checkpoint"])["model"] == "tiny"


def test_digits_run_together_are_a_row(folder: Path) -> None:
    mnistgen(folder, "sample", "tiny", "--digits", "3013", "--out", "row.png")
    assert pixels(folder / "row.png").shape == (30, 4 * 30)
    mnistgen(folder, "sample", "tiny", "--digits", "1,3", "--per-digit", "2", "--out", "list.png")
    assert pixels(folder / "list.png").shape == (2 * 30, 2 * 30)
    mnistgen(folder, "sample", "checkpoints/tiny/model.safetensors", "--digits", "2", "--out", "two.png")
    assert pixels(folder / "two.png").shape == (30, 10 * 30)


def test_bulk_data_has_labels_and_provenance_and_can_be_trained_on(folder: Path) -> None:
    mnistgen(folder, "sample", "tiny", "--count", "42", "--seed", "5", "--out", "bulk.npz")
    mnistgen(folder, "sample", "tiny", "--count", "42", "--seed", "5", "--out", "bulk", "--batch-size", "5")
    file, tree = load_data(folder / "bulk.npz"), load_data(folder / "bulk")
    assert file.labels.tolist() == [i % 4 for i in range(42)]
    assert tree.labels.bincount().tolist() == file.labels.bincount().tolist() == [11, 11, 10, 10]
    order = tree.labels.argsort(stable=True)
    assert torch.equal(tree.labels[order], file.labels.sort().values)
    assert (folder / "bulk" / "provenance.json").exists()
    with np.load(folder / "bulk.npz", allow_pickle=False) as arrays:
        assert json.loads(json.loads(str(arrays["provenance"]))["Checkpoint"])["model"] == "tiny"
    assert "exists already" in mnistgen(folder, "sample", "tiny", "--count", "4", "--out", "bulk", code=1)


def test_latent_pictures_and_the_models_own_knobs(folder: Path) -> None:
    assert "interpolate-0-3-seed0.png" in mnistgen(folder, "sample", "tiny", "--interpolate", "0", "3")
    assert pixels(folder / "samples" / "tiny" / "interpolate-0-3-seed0.png").shape == (8 * 30, 10 * 30)
    mnistgen(folder, "sample", "tiny", "--traverse", "--digits", "2", "--out", "traverse.png")
    assert pixels(folder / "traverse.png").shape == (3 * 30, 11 * 30)
    mnistgen(folder, "sample", "tiny", "--temperature", "0", "--per-digit", "2", "--digits", "1", "--out", "cold.png")
    cold = pixels(folder / "cold.png")
    assert np.array_equal(cold[:, :30], cold[:, 30:])
    assert "--temperature" in mnistgen(folder, "sample", "tiny", "--help")
    assert "no latent codes" in mnistgen(folder, "sample", "duel", "--interpolate", "0", "1", code=2)


def test_wrong_usage(folder: Path) -> None:
    assert "Did you mean 'tiny'" in mnistgen(folder, "sample", "tinny", code=2)
    assert "There is duel, tiny" in mnistgen(folder, "sample", code=2)
    assert "names no classes" in mnistgen(folder, "sample", "tiny", "--digits", "0-9", code=2)
    assert "names no classes" in mnistgen(folder, "sample", "tiny", "--digits", "x", code=2)
    assert "--temperature" in mnistgen(folder, "sample", "tiny", "--temperatur", "1", code=2)
    assert "count is 0" in mnistgen(folder, "sample", "tiny", "--count", "0", code=2)
    assert "give one of them" in mnistgen(folder, "sample", "tiny", "--count", "5", "--traverse", code=2)
    assert ".png" in mnistgen(folder, "sample", "tiny", "--out", "grid.jpg", code=2)
    assert "data in bulk" in mnistgen(folder, "sample", "tiny", "--count", "3", "--out", "a.txt", code=2)
    (folder / "file").write_text("")
    assert "cannot be written" in mnistgen(folder, "sample", "tiny", "--out", "file/grid.png", code=1)
    assert "cannot be used here" in mnistgen(folder, "sample", "tiny", "--device", "quantum", code=2)
