"""What goes by a known name is what everybody means by it."""

import gzip
import shutil
from pathlib import Path

import pytest

from mnistgen import integrity
from mnistgen.cli import main
from mnistgen.data import data_folder, load_data
from mnistgen.data.families import FAMILIES
from mnistgen.errors import DataError

FILES = FAMILIES["mnist"].files["test"]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A copy of MNIST's test images."""
    there, raw = data_folder() / "MNIST" / "raw", tmp_path / "MNIST" / "raw"
    if not all((there / name).is_file() for name in FILES):
        pytest.skip("MNIST's test images are not on disk")
    raw.mkdir(parents=True)
    for name in FILES:
        shutil.copy(there / name, raw / name)
    return raw


@pytest.mark.parametrize(("file", "place"), [(FILES[1], 8), (FILES[0], 5000)])
def test_altered_files_do_not_pass_for_mnist(
    raw: Path, file: str, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root = raw.parents[1]
    assert load_data("mnist", "test", data_dir=root).hash == FAMILIES["mnist"].hashes["test"]
    content = bytearray((raw / file).read_bytes())
    content[place], content[place + 1] = content[place + 1] ^ 1, content[place]
    (raw / file).write_bytes(content)
    with pytest.raises(DataError, match=rf"^{raw / file}: not the test split of MNIST, .*--data {raw}$"):
        load_data("mnist", "test", data_dir=root)
    assert main(["data", "mnist", "--split", "test", "--data-dir", str(root)]) == 1
    assert "not the test split of MNIST" in capsys.readouterr().err
    assert len(load_data(str(raw), "test")) == 10_000  # by its path, it is whatever it is


def test_mnist_may_be_packed(raw: Path) -> None:
    for name in FILES:
        (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes(), 1))
        (raw / name).unlink()
    assert len(load_data("mnist", "test", data_dir=raw.parents[1])) == 10_000


def test_the_hashes_of_mnist_are_known(mnist: object) -> None:
    for split, digest in FAMILIES["mnist"].hashes.items():
        assert load_data("mnist", split).hash == digest


def test_the_shipped_digits_are_those_that_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(integrity._shipped(), "data/digits.npz", "0" * 64)
    with pytest.raises(DataError, match=r"digits\.npz: it is not the file that ships with mnistgen; install"):
        load_data("digits")
