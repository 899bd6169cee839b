"""The synthetic dataset that comes with the package, and when it takes MNIST's place."""

from pathlib import Path

import pytest
import torch
from command import mnistgen

from mnistgen import UsageError, load_data
from mnistgen.checkpoint import read_checkpoint
from mnistgen.data import data_folder, load_training_data, loading
from mnistgen.errors import DownloadError
from mnistgen.evaluator import extract, load_evaluator

FILE = Path(loading.__file__).with_name("digits.npz")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data folder without MNIST, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("there is no network")

    for function in ("getaddrinfo", "create_connection", "socket.connect"):
        monkeypatch.setattr(f"socket.{function}", refuse)
    monkeypatch.setenv("MNISTGEN_DATA", str(tmp_path))
    return tmp_path


def test_twenty_thousand_balanced_digits_in_less_than_four_mebibytes() -> None:
    data = load_data("digits")
    assert data.images.shape == (20_000, 1, 28, 28)
    assert data.images.dtype == torch.uint8
    assert data.labels.bincount().tolist() == [2_000] * 10
    assert (data.name, data.split, data.num_classes) == ("digits", "all", 10)
    assert FILE.stat().st_size < 4 * 2**20
    assert len(data.images.flatten(1).unique(dim=0)) == 20_000


def test_they_are_the_digits_that_their_labels_say() -> None:
    data = load_data("digits")
    logits = extract(load_evaluator("A"), data.images[:2_000], layers=("logits",))["logits"]
    assert float((logits.argmax(1) == data.labels[:2_000]).float().mean()) > 0.98


def test_they_are_neither_divided_nor_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="digits has no test split: it is not divided"):
        load_data("digits", "test")
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(load_data("digits")) == 20_000


def test_without_mnist_they_take_its_place_and_say_so(offline: Path) -> None:
    data, note = load_training_data()
    assert data.name == "digits"
    assert data.hash == load_data("digits").hash
    assert note.count(". ") == 0
    for part in ("MNIST is neither on disk nor to be downloaded", "synthetic", str(data_folder()), "--data mnist"):
        assert part in note
    assert offline == data_folder()


def test_what_is_named_is_never_replaced(offline: Path) -> None:
    with pytest.raises(DownloadError, match="MNIST is not in"):
        load_training_data("mnist")
    with pytest.raises(DownloadError, match=r"Fashion-MNIST is not in"):
        load_training_data("fashion")
    with pytest.raises(UsageError, match="There is no dataset"):
        load_training_data("nmist")
    assert not any(offline.iterdir())


def test_damaged_files_of_mnist_are_reported_and_not_replaced(offline: Path) -> None:
    raw = offline / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for kind in ("images-idx3", "labels-idx1"):
        (raw / f"train-{kind}-ubyte").write_bytes(b"no digits")
    with pytest.raises(Exception, match="train-images-idx3-ubyte"):
        load_training_data()


@pytest.mark.usefixtures("offline")
def test_training_offline_names_what_it_was_trained_on(tmp_path: Path) -> None:
    variables = {"MNISTGEN_DATA": str(tmp_path / "none")}
    text = mnistgen(tmp_path, "train", "tiny", "--steps", "3", "--quiet", **variables)
    assert "this is `digits`, the synthetic digits" in text
    about = read_checkpoint(tmp_path / "checkpoints" / "tiny-digits")
    assert about.dataset == "digits"
    text = mnistgen(tmp_path, "train", "tiny", "--data", "mnist", "--steps", "3", code=1, **variables)
    assert "MNIST is not in" in text
    assert "digits" not in text.replace("synthetic", "")
    # an explicit name is as good, and says nothing
    text = mnistgen(tmp_path, "train", "tiny", "--data", "digits", "--steps", "3", "--out", "named")
    assert "neither on disk" not in text


@pytest.mark.usefixtures("offline")
def test_the_test_that_is_advised_offline_works(tmp_path: Path) -> None:
    variables = {"MNISTGEN_DATA": str(tmp_path / "none")}
    text = mnistgen(tmp_path, "evaluator", "train", "logistic", "--steps", "2", "--quiet", **variables)
    (advice,) = [line.partition("python -m mnistgen ")[2] for line in text.splitlines() if line.startswith("test it")]
    assert advice.endswith(" --data digits")
    assert "trained on these images" in mnistgen(tmp_path, *advice.split(), "--quiet", **variables)


@pytest.mark.usefixtures("offline")
def test_sampling_offline_without_a_name_draws_from_the_flow(tmp_path: Path) -> None:
    variables = {"MNISTGEN_DATA": str(tmp_path / "none")}
    text = mnistgen(tmp_path, "sample", "--per-digit", "1", "--quiet", **variables)
    assert (tmp_path / "samples" / "flow-mnist" / "grid-seed0.png").exists(), text
