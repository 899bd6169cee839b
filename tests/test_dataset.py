"""The one carrier of images from a reader to a score: with or without labels, and made of arrays of any kind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import Tiny, TinyConfig, blobs

from mnistgen import DataError, Dataset, fit
from mnistgen.data import as_dataset, export_data, load_data, to_float, train_validation_split
from mnistgen.evaluator import build_classifier, evaluate
from mnistgen.scoring import ImageSource, open_source

PIXELS = blobs(24).images  # (24, 1, 28, 28) uint8


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        PIXELS[:, 0],
        PIXELS.flatten(1),
        PIXELS.permute(0, 2, 3, 1),
        PIXELS.numpy(),
        PIXELS[:, 0].numpy(),
        PIXELS[:, 0].tolist(),
        PIXELS.to(torch.int64),
        PIXELS / 255,
        PIXELS.double() / 255,
        (PIXELS / 255).numpy(),
        (PIXELS / 127.5 - 1).requires_grad_(),
        PIXELS.numpy()[::-1][::-1],
    ],
    ids=lambda given: f"{type(given).__name__} {getattr(given, 'shape', '')} {getattr(given, 'dtype', '')}",
)
def test_images_of_any_kind_are_the_same_images(given: Any) -> None:
    data = Dataset.of(given)
    assert torch.equal(data.images, PIXELS)
    assert data.images.dtype == torch.uint8
    assert (data.labels, data.num_classes, data.classes) == (None, 1, ())


@pytest.mark.parametrize(
    "labels",
    [
        [3, 8, 3] * 8,
        np.array([3, 8, 3] * 8, np.int32),
        np.array([3, 8, 3] * 8, np.uint8)[:, None],
        torch.tensor([3, 8, 3] * 8, dtype=torch.int16),
        torch.tensor([3, 8, 3] * 8),
        torch.tensor([3.0, 8.0, 3.0] * 8),
    ],
    ids=lambda labels: f"{type(labels).__name__} {getattr(labels, 'dtype', '')}",
)
def test_labels_of_any_kind_are_the_same_labels(labels: Any) -> None:
    data = Dataset.of(PIXELS, labels, name="some")
    assert data.labels is not None
    assert data.labels.tolist() == [3, 8, 3] * 8
    assert data.labels.dtype == torch.int64
    assert (data.num_classes, data.classes, data.name) == (9, (3, 8), "some")
    assert data.hash == Dataset(PIXELS, torch.tensor([3, 8, 3] * 8), 9, "other", "train").hash


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (PIXELS, [1, 2], "images holds 24 images, but labels holds 2 labels"),
        (PIXELS, torch.eye(24), r"labels are \(24, 24\) int64; they must be \(n,\) whole numbers"),
        (PIXELS, [0.5] * 24, "they must be"),
        (PIXELS, [-1] * 24, "label -1 of image 0 is out of range; labels are 0..999"),
        (PIXELS, ["a"] * 24, "labels are list of str"),
        (PIXELS[:, :, :20], None, "20x28"),
        (torch.randn(24, 28, 28) * 3, None, "images: pixels go from"),
        (torch.full((24, 28, 28), torch.nan), None, "images"),
        ([[1, 2], [3]], None, "images are no array"),
        (np.array(["a"]), None, "images are ndarray of str"),
        (torch.tensor(3.0), None, r"the shape \(\) is not one of images"),
    ],
)
def test_what_is_no_dataset_is_refused_in_a_sentence(images: Any, labels: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Dataset.of(images, labels, name="mine")


def test_class_names_give_the_number_of_classes() -> None:
    data = Dataset.of(PIXELS, [0, 1] * 12, class_names=["zero", "one", "two"])
    assert (data.num_classes, data.classes, data.class_name(2)) == (3, (0, 1), "two")
    assert Dataset.of(PIXELS, [0, 1] * 12).class_name(1) == "1"
    assert Dataset.of(PIXELS, [0, 1] * 12, num_classes=5).num_classes == 5
    with pytest.raises(DataError, match="label 1 of image 1 is not in"):
        Dataset.of(PIXELS, [0, 1] * 12, class_names=["zero"])


def test_a_dataset_without_labels_does_what_one_with_labels_does() -> None:
    data, labelled = Dataset.of(PIXELS, name="mine"), blobs(24)
    assert data.hash != labelled.hash
    assert data.hash == Dataset.of(PIXELS, name="other").hash
    assert data.to("cpu").hash == data.hash
    assert data.y.tolist() == [0] * 24
    assert labelled.y is labelled.labels
    training, validation = train_validation_split(data, 4)
    assert (len(training), len(validation), training.labels) == (20, 4, None)
    with pytest.raises(DataError, match="mine has no labels, which are needed to train a classifier"):
        data.require_labels("to train a classifier")
    with pytest.raises(DataError, match="3 classes, but no labels"):
        Dataset(PIXELS, None, 3, "mine", "all")


def test_the_hash_of_a_labelled_dataset_is_what_checkpoints_say() -> None:
    assert blobs(24).hash == "dae6101e2544c9d5"


def test_notes_are_kept_and_are_no_part_of_the_content() -> None:
    plain = blobs(24)
    data = Dataset(plain.images, plain.labels, 4, "blobs", "train", notes=("the images were inverted.",))
    assert data.hash == plain.hash
    assert data.subset(torch.arange(3)).notes == data.notes


@pytest.mark.parametrize("form", ["npz", "csv", "png", "idx"])
def test_images_without_labels_come_back_from_disk(tmp_path: Path, form: str) -> None:
    data, target = Dataset.of(PIXELS, name="mine"), f"some.{form}"
    export_data(data, tmp_path / target, form)
    again = load_data(str(tmp_path / target))
    assert again.labels is None
    assert again.hash == data.hash


class Pairs(torch.utils.data.Dataset[tuple[Any, Any]]):
    """A torch dataset of (image, label), as torchvision's are after ToTensor."""

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        if place >= len(self):
            raise IndexError
        return PIXELS[place] / 255, place % 4


@pytest.mark.parametrize(
    "given",
    [
        blobs(24),
        (PIXELS, torch.arange(24) % 4),
        (PIXELS.numpy(), (np.arange(24) % 4).astype(np.int32)),
        (PIXELS[:, 0] / 255, [k % 4 for k in range(24)]),
        Pairs(),
        torch.utils.data.Subset(blobs(30), range(24)),
        torch.utils.data.TensorDataset(PIXELS / 127.5 - 1, torch.arange(24) % 4),
    ],
    ids=lambda given: type(given).__name__,
)
def test_library_calls_take_images_and_labels_of_any_kind(given: Any) -> None:
    data = as_dataset(given)
    assert data.hash == blobs(24).hash
    assert open_source(given, name="mine").data.hash == data.hash
    *_, step = fit(Tiny(TinyConfig(), 4), given, validation=given, steps=1, device="cpu")
    *_, same = fit(Tiny(TinyConfig(), 4), blobs(24), steps=1, device="cpu")
    assert step.run.identity["dataset hash"] == same.run.identity["dataset hash"]
    assert len(evaluate(build_classifier("logistic"), given if given is not data else (PIXELS, data.y)).labels) == 24


def test_a_dataset_goes_through_torchs_loader() -> None:
    data = blobs(24)
    (x, y), *rest = torch.utils.data.DataLoader(data, batch_size=20)
    assert torch.equal(x, to_float(PIXELS[:20]))
    assert torch.equal(y, data.y[:20])
    assert [len(images) for images, _ in rest] == [4]
    assert [label for _, label in Dataset.of(PIXELS)] == [0] * 24
    assert torch.equal(data[-1][0], data[23][0])
    for wrong in (slice(3), 0.5):
        with pytest.raises(TypeError, match="several images are `subset`"):
            data[wrong]  # type: ignore[index]


def test_what_was_done_to_a_torch_dataset_is_said() -> None:
    pictures = [(Image.fromarray(image[0].numpy()).convert("RGB"), None) for image in PIXELS]

    class Pictures(Pairs):
        def __getitem__(self, place: int) -> tuple[Any, Any]:
            return pictures[place]

    data = Dataset.of(Pictures(), name="pictures")
    assert data.hash == Dataset.of(PIXELS).hash
    assert data.notes == ("pictures: images: RGB converted to grey.",)
    assert any("0 to 1" in note or "[0, 1]" in note for note in as_dataset(Pairs()).notes)


def test_images_alone_are_images_without_labels() -> None:
    for given in (PIXELS, PIXELS.numpy(), (PIXELS, None), (PIXELS.numpy(), None)):
        assert as_dataset(given).hash == Dataset.of(PIXELS).hash
        source = open_source(given)
        assert isinstance(source, ImageSource)
        assert source.data.labels is None
    with pytest.raises(DataError, match="TensorDataset is no dataset of"):
        as_dataset(torch.utils.data.TensorDataset(PIXELS))
