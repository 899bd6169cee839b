"""Classes are what the data have: some of those that labels could name, or none where there are no labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command import mnistgen
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import Duel, Tiny, TinyConfig, blobs

from mnistgen import CheckpointError, DataError, Dataset, UsageError, fit, load, sample, save
from mnistgen.checkpoint import WEIGHTS, read_checkpoint
from mnistgen.data import export_data, load_data
from mnistgen.evaluator import build_classifier
from mnistgen.sampling.options import digits_of
from mnistgen.scoring.monitor import SampleMonitor

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
SOME = Dataset.of(blobs(120).images, [3, 8] * 60, name="some", class_names=NAMES)
NONE = Dataset.of(blobs(120).images, name="none")


def trained(data: Dataset, cls: type[Tiny | Duel] = Tiny) -> Tiny:
    *_, step = fit(cls(TinyConfig(), data.num_classes), data, steps=2, device="cpu")
    return step.ema


def test_a_model_knows_what_it_was_trained_on(tmp_path: Path) -> None:
    model = trained(SOME)
    save(tmp_path, model, dataset=SOME)
    again = load(tmp_path, model_class=Tiny)
    for known in (model, again):
        assert (known.trained_classes, known.class_names, known.respects_labels) == ((3, 8), NAMES, True)
    about = read_checkpoint(tmp_path)
    assert (about.classes, about.class_names, about.num_classes) == ([3, 8], list(NAMES), 9)
    assert len(sample(again, [3, 8, 3])) == 3
    with pytest.raises(UsageError, match="There is no label 5; this model was trained on three, eight alone"):
        sample(again, [3, 5])


def test_a_model_of_images_without_labels_has_no_classes(tmp_path: Path) -> None:
    save(tmp_path, trained(NONE), dataset=NONE)
    model = load(tmp_path, model_class=Tiny)
    assert (model.trained_classes, model.num_classes, model.respects_labels) == ((), 1, False)
    assert read_checkpoint(tmp_path).classes == []
    assert len(sample(model, [0, 0])) == 2
    with pytest.raises(UsageError, match="There is no label 1; this model was trained without labels"):
        sample(model, [1])


def test_checkpoints_that_say_nothing_of_classes_have_all(tmp_path: Path) -> None:
    save(tmp_path, Tiny(TinyConfig(), 4))
    about = {"config": Tiny(TinyConfig(), 4).config.to_json(), "num_classes": "4"}
    save_file(load_file(tmp_path / WEIGHTS), tmp_path / "old.safetensors", about)
    assert load(tmp_path / "old.safetensors", model_class=Tiny).trained_classes == (0, 1, 2, 3)
    for wrong in ("[4]", "[1, 0]", "3", '["a"]', "[true]"):
        save_file(load_file(tmp_path / WEIGHTS), tmp_path / "bad.safetensors", about | {"classes": wrong})
        with pytest.raises(CheckpointError, match="is damaged"):
            read_checkpoint(tmp_path / "bad.safetensors")


def test_labels_to_sample_are_whole_numbers_of_any_type() -> None:
    model = Tiny(TinyConfig(), 4).eval()
    expected = sample(model, [0, 3])
    for labels in (np.array([0, 3], np.uint8), torch.tensor([0, 3], dtype=torch.int32), torch.tensor([0.0, 3.0])):
        assert torch.equal(sample(model, labels), expected)
    with pytest.raises(UsageError, match="Labels are whole numbers, not float32"):
        sample(model, torch.tensor([0.5]))


def test_a_classifier_is_not_trained_without_labels() -> None:
    with pytest.raises(DataError, match="none has no labels, which are needed to train Logistic"):
        next(fit(build_classifier("logistic", 1), NONE, steps=1, device="cpu"))


def test_the_watch_keeps_to_the_classes_of_the_data() -> None:
    data, evaluator = Dataset.of(blobs(400).images, [3, 8] * 200, name="some", num_classes=10), build_classifier("cnn")
    look = SampleMonitor(data, evaluator=evaluator, n=100).check(trained(SOME))
    assert set(look.missing) <= {3, 8}
    assert look.frame.shape == (8 * 30, 2 * 30)  # a column a class
    with pytest.raises(UsageError, match="none has no labels"):
        SampleMonitor(NONE, evaluator=evaluator)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of each kind, and a model trained on each."""
    path = tmp_path_factory.mktemp("classes")
    np.savez(path / "some.npz", images=SOME.images, labels=SOME.labels, class_names=np.array(NAMES))
    np.savez(path / "none.npz", images=NONE.images)
    for name in ("some", "none"):
        mnistgen(path, "train", "tiny", "--data", f"{name}.npz", "--steps", "3", "--out", name, "--quiet")
    return path


@pytest.mark.parametrize(("name", "rows"), [("some", 2), ("none", 10)])
def test_the_training_grid_has_a_row_a_class(folder: Path, name: str, rows: int) -> None:
    with Image.open(folder / name / "grid.png") as image:
        assert image.size == (10 * 60, rows * 60)


def test_classes_are_asked_for_by_number_or_name() -> None:
    model = trained(SOME)
    assert digits_of("", model) == ([3, 8], False)
    for text in ("3,8", "three,eight", "Three, EIGHT"):
        assert digits_of(text, model) == ([3, 8], False)
    assert digits_of("38", model) == ([3, 8], True)
    for text in ("zero", "0", "0-8", "three,nine"):
        with pytest.raises(UsageError, match="names no classes of this model: this model was trained on three, eight"):
            digits_of(text, model)
    assert digits_of("", trained(NONE)) == ([0] * 10, False)
    with pytest.raises(UsageError, match="trained without labels"):
        digits_of("0", trained(NONE))
    model.class_names = ("T-shirt", "a", "A", *NAMES[3:])
    model.trained_classes = tuple(range(9))
    assert digits_of("t-shirt", model) == ([0], False)
    assert digits_of("A,a", model) == ([2, 1], False)


def test_samples_are_of_the_classes_trained_and_keep_their_names(folder: Path) -> None:
    mnistgen(folder, "sample", "some", "--count", "6", "--out", "drawn", "--quiet")
    assert {path.parent.name for path in (folder / "drawn").rglob("*.png")} == {"three", "eight"}
    data = load_data(folder / "drawn", "all")
    assert (data.classes, data.class_names, data.y.tolist()) == ((3, 8), NAMES, [3, 8] * 3)
    assert "trained on three, eight" in mnistgen(folder, "sample", "some", "--digits", "zero", "--out", "x.png", code=2)
    mnistgen(folder, "sample", "some", "--digits", "eight", "--count", "2", "--out", "eights.npz", "--quiet")
    assert load_data(folder / "eights.npz").y.tolist() == [8, 8]


def test_samples_without_labels_are_images_alone(folder: Path) -> None:
    mnistgen(folder, "sample", "none", "--out", "grid.png", "--quiet")
    mnistgen(folder, "sample", "none", "--count", "5", "--out", "drawn.npz", "--quiet")
    data = load_data(folder / "drawn.npz")
    assert (len(data), data.labels) == (5, None)


@pytest.mark.parametrize(
    "names", [("b", "a"), ("0", "1"), ("one", "2"), ("a/b", "c"), ("A", "a")], ids=lambda names: " ".join(names)
)
def test_class_folders_come_back_with_their_labels(tmp_path: Path, names: tuple[str, ...]) -> None:
    data = Dataset.of(blobs(6).images, [0, 1] * 3, class_names=names)
    export_data(data, tmp_path / "folder", "png")
    again = load_data(tmp_path / "folder", "all")
    assert again.hash == data.hash
    assert (again.class_names == names) == (names == ("b", "a"))
