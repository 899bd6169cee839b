"""`mnistgen data` and `mnistgen data export` as a user meets them."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mnistgen.cli import main
from mnistgen.cli.data import class_grid, mean_and_std, pixel_counts
from mnistgen.data import Dataset, load_data
from mnistgen.data.binarised import drawn


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Three classes of 2, 3 and 5 images, 30 grey levels apart, in digits.npz; the current folder is its folder."""
    labels = torch.tensor([2, 0, 2, 1, 2, 1, 2, 0, 2, 1])
    images = (30 * (labels + 1)).to(torch.uint8)[:, None, None, None].repeat(1, 1, 28, 28)
    images[:, :, 0, 0] = torch.arange(10, dtype=torch.uint8)[:, None]
    np.savez(tmp_path / "digits.npz", images=images[:, 0].numpy(), labels=labels.numpy())
    monkeypatch.chdir(tmp_path)
    return load_data("digits.npz")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["data", *arguments]) == code
    text = capsys.readouterr()
    assert "Traceback" not in text.err
    return text.out if code == 0 else text.err


def row(text: str, name: str) -> str:
    return next(line.removeprefix(name).strip() for line in text.splitlines() if line.lstrip().startswith(name))


def test_what_is_shown_is_what_there_is(data: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "digits.npz")
    pixels = data.images.double()
    assert row(text, "dataset") == "digits-npz, all"
    assert row(text, "shape") == "(10, 1, 28, 28) uint8, labels (10,) int64"
    assert row(text, "splits") == "all 10"
    assert row(text, "pixels") == "0 to 90"
    assert row(text, "mean").startswith(f"{pixels.mean():.4f} (of 255), {pixels.mean() / 255:.4f}")
    assert row(text, "std").startswith(f"{pixels.std(correction=0):.4f} (of 255)")
    assert row(text, "hash") == data.hash
    p = np.array([0.2, 0.3, 0.5])
    assert row(text, "balance").startswith(f"{-(p * np.log(p)).sum() / np.log(3):.4f} of 1")
    assert [line.split()[:3] for line in text.splitlines()[-3:]] == [
        ["0", "2", "20.0%"],
        ["1", "3", "30.0%"],
        ["2", "5", "50.0%"],
    ]


def test_both_splits_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.arange(7 * 784).reshape(7, 28, 28).astype(np.uint8)
    y = np.arange(7)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    for split in ("train", "test"):
        assert row(shown(capsys, str(tmp_path / "d.npz"), "--split", split), "splits") == "train 7, test 2"


def test_a_split_that_is_broken_does_not_hide_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.arange(7 * 784).reshape(7, 28, 28).astype(np.uint8)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=np.arange(7), x_test=x, y_test=np.arange(6))
    text = row(shown(capsys, str(tmp_path / "d.npz")), "splits")
    assert text == "train 7, test not readable (--split test says why)"
    assert "holds 7 images, but" in shown(capsys, str(tmp_path / "d.npz"), "--split", "test", code=1)


def test_the_statistics_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    counts = pixel_counts(images)
    monkeypatch.setattr("mnistgen.cli.data.CHUNK", 1000)
    assert torch.equal(pixel_counts(images), counts)
    assert counts.tolist() == images.flatten().bincount(minlength=256).tolist()
    assert mean_and_std(counts) == pytest.approx(
        (images.double().mean().item(), images.double().std(correction=0).item())
    )


def test_the_picture_has_a_column_for_each_class(data: Dataset) -> None:
    picture = class_grid(data, seed=0)
    cells = picture.unflatten(1, (3, -1)).unflatten(0, (8, -1))  # (row, y, column, x)
    middle = cells[:, 15, :, 15]
    assert (middle == 0).sum(0).tolist() == [6, 5, 3]  # 2, 3 and 5 images
    assert middle.amax(0).tolist() == [30, 60, 90]
    assert torch.equal(class_grid(data, seed=0), picture)
    assert not torch.equal(class_grid(data, seed=1), picture)


def test_the_picture_is_written(data: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert "picture: grid.png" in shown(capsys, "digits.npz", "--out", "grid.png")
    with Image.open("grid.png") as picture:
        assert np.array_equal(np.asarray(picture), class_grid(data, 0).numpy())
        assert picture.info["Hash"] == data.hash
    assert "is a .png" in shown(capsys, "digits.npz", "--out", "grid.npz", code=2)


@pytest.mark.parametrize(("format", "path"), [("npz", "e.npz"), ("csv", "e.csv"), ("png", "e"), ("idx", "e")])
def test_export_and_back(data: Dataset, capsys: pytest.CaptureFixture[str], format: str, path: str) -> None:  # noqa: A002
    text = shown(capsys, "export", "digits.npz", "--format", format, "--out", path)
    assert text == f"10 images, hash {data.hash}: {path}\n"
    assert row(shown(capsys, path), "hash") == data.hash


def test_resize_is_asked_for(data: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(
        "large.npz", images=np.full((2, 56, 56, 3), 77, np.uint8) + np.uint8([[[[0]]], [[[1]]]]), labels=np.arange(2)
    )
    assert "are 56x56 RGB uint8; MNIST-format images are 28x28" in shown(capsys, "large.npz", code=1)
    assert row(shown(capsys, "large.npz", "--resize"), "pixels") == "77 to 78"
    shown(capsys, "export", "large.npz", "--resize", "--format", "csv", "--out", "small.csv")
    assert load_data("small.csv").images.unique().tolist() == [77, 78]


def test_errors_are_one_sentence_and_leave_nothing(data: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.csv").write_text("label,pixel0\n1,2\n")
    Path("train-images-idx3-ubyte").write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 5, 28, 28)))
    Path("train-labels-idx1-ubyte").write_bytes(b"")
    before = sorted(Path().iterdir())
    for source, says, code in (
        ("digitz", "There is no dataset 'digitz'", 2),
        ("emnist", "There are emnist-byclass, emnist-bymerge", 2),
        ("broken.csv", "broken.csv, line 1: the column 'pixel1' is missing", 1),
        ("train-images-idx3-ubyte", "train-images-idx3-ubyte: the header claims (5, 28, 28) uint8", 1),
    ):
        assert says in shown(capsys, source, code=code)
        assert says in shown(capsys, "export", source, "--format", "idx", "--out", "new", code=code)
    assert "digits.npz has no test split" in shown(capsys, "digits.npz", "--split", "test", code=1)
    assert sorted(Path().iterdir()) == before


def test_odd_names_do_not_reach_the_terminal_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = np.array(["[red]a[/red]", "\x1b[31mb"])
    np.savez(
        tmp_path / "d.npz",
        images=np.arange(2 * 784).reshape(2, 28, 28).astype(np.uint8),
        labels=np.arange(2),
        class_names=names,
    )
    text = shown(capsys, str(tmp_path / "d.npz"))
    assert "[red]a[/red]" in text
    assert "\x1b" not in text


def test_real_mnist(mnist: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys)
    assert row(text, "splits") == "train 60000, test 10000"
    assert "0.1307 (of 1)" in row(text, "mean")
    assert "0.3081 (of 1)" in row(text, "std")
    assert row(text, "hash") == mnist.hash


def test_binarised_data_are_black_and_white_and_named_so(data: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    above = load_data("digits.npz", binarise="threshold")
    assert torch.equal(above.images, (data.images > 127).to(torch.uint8) * 255)
    static = load_data("digits.npz", binarise="static")
    assert static.images.unique().tolist() == [0, 255]
    assert torch.equal(static.images, load_data("digits.npz", binarise="static").images)
    assert (above.name, static.name) == ("digits-npz-threshold", "digits-npz-static")
    assert len({data.hash, above.hash, static.hash}) == 3
    for label, grey in ((0, 30), (1, 60), (2, 90)):  # white with the probability of the grey, within 5 standard errors
        white = static.images[static.y == label].double() / 255
        p = grey / 255
        assert abs(float(white.mean()) - p) < 5 * (p * (1 - p) / white.numel()) ** 0.5
    assert "digits-npz-static, all" in shown(capsys, "digits.npz", "--split", "all", "--binarise", "static")


def test_binarised_data_are_read_by_their_name() -> None:
    for way in ("static", "threshold"):
        by_name, by_flag = load_data(f"digits-{way}"), load_data("digits", binarise=way)
        assert (by_name.name, by_name.hash) == (by_flag.name, by_flag.hash) == (f"digits-{way}", by_name.hash)


def test_the_static_draw_keeps_black_and_white() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).repeat(14 * 28).view(1, 1, 28, 28)
    assert torch.equal(drawn(images, 0), images)
