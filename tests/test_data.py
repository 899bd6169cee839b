"""Datasets: the codec, the split, the hash, every reader on good and bad files, export, and downloads."""

import gzip
import hashlib
import http.server
import io
import math
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from mnistgen.data import (
    Dataset,
    ImageStream,
    available_splits,
    convert,
    data_folder,
    export_data,
    load_data,
    load_images,
    to_float,
    to_uint8,
    torchvision_shim,
    train_validation_split,
)
from mnistgen.data import download as downloads
from mnistgen.data.convert import Conversion
from mnistgen.data.families import FAMILIES
from mnistgen.data.readers import csv
from mnistgen.errors import DataError, MnistgenError, UsageError

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def any_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits of the tests' own may go by MNIST's name."""
    monkeypatch.setitem(FAMILIES, "mnist", replace(FAMILIES["mnist"], hashes={}, sha256={}))


def converted(array: np.ndarray[Any, Any], **how: bool) -> torch.Tensor:
    return convert.to_images(array, "x", Conversion(**{"resize": True, **how})).images


def digits(n: int = 12, classes: int = 10, seed: int = 0, **fields: Any) -> Dataset:
    """Random images; all classes occur."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 1, 28, 28), generator=rng, dtype=torch.uint8)
    labels = torch.arange(n) % classes
    return Dataset(images, labels, classes, **({"name": "digits", "split": "all"} | fields))


def boxes(n: int = 3, *shape: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    """Black images with a light box in the upper left: what shows nothing is refused."""
    images = np.zeros((n, *(shape or (28, 28))), dtype)
    images[:, :10, :10] = 200
    return images


def idx(array: np.ndarray[Any, Any], code: int = 8) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype({8: "u1", 12: ">i4", 13: ">f4"}[code]).tobytes()


def write_idx(folder: Path, data: Dataset, images: str, labels: str, *, packed: bool = False, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ((images, data.images.squeeze(1).numpy()), (labels, data.labels.numpy() + first)):
        content = idx(array)
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)


def write_mnist(folder: Path, train: Dataset, test: Dataset, *, packed: bool = False) -> None:
    write_idx(folder, train, "train-images-idx3-ubyte", "train-labels-idx1-ubyte", packed=packed)
    write_idx(folder, test, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", packed=packed)


def rows(data: Dataset) -> list[list[int]]:
    return [
        [label, *pixels] for label, pixels in zip(data.labels.tolist(), data.images.flatten(1).tolist(), strict=True)
    ]


HEADER = ",".join(["label", *(f"pixel{k}" for k in range(784))])


def write_csv(path: Path, table: list[list[Any]], header: str | None = HEADER, end: str = "\n") -> None:
    lines = ([] if header is None else [header]) + [",".join(map(str, row)) for row in table]
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())


# --- The codec ---


def test_the_codec_is_exact_on_every_pixel_value() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    x = to_float(pixels)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(to_uint8(x), pixels)


def test_to_uint8_rounds_and_clamps() -> None:
    x = torch.tensor([-7.0, -1.0, (99.6 / 127.5) - 1, (99.4 / 127.5) - 1, 1.0, 3.0])
    assert to_uint8(x).tolist() == [0, 0, 100, 99, 255, 255]


def test_to_uint8_computes_in_float32_whatever_comes_in() -> None:
    x = to_float(torch.arange(256, dtype=torch.uint8))
    for dtype in (torch.float64, torch.bfloat16):
        assert torch.equal(to_uint8(x.to(dtype)), to_uint8(x.to(dtype).float()))


# --- Dataset ---


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": torch.zeros(12, 28, 28, dtype=torch.uint8)}, r"\(12, 28, 28\) uint8"),
        ({"images": torch.zeros(12, 1, 28, 28)}, "float32"),
        ({"labels": torch.zeros(11, dtype=torch.int64)}, r"labels are \(11,\)"),
        ({"labels": torch.zeros(12, dtype=torch.int32)}, "int32"),
        ({"labels": torch.tensor([*range(11), 10])}, r"label 10 of image 10 is not in 0\.\.9"),
        ({"labels": torch.tensor([0] * 11 + [-1])}, "label -1 of image 11"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"class_names": ("zero",)}, "1 class names for 10 classes"),
    ],
)
def test_a_dataset_refuses_what_it_does_not_hold(change: dict[str, Any], says: str) -> None:
    data = digits()
    fields = {name: getattr(data, name) for name in ("images", "labels", "num_classes", "name", "split")}
    with pytest.raises(DataError, match=says):
        Dataset(**(fields | change))


def test_the_hash_is_of_the_content_alone() -> None:
    data = digits()
    assert len(data.hash) == 16
    assert data.hash == digits(name="other", split="train").hash
    assert data.to("cpu").hash == data.hash
    assert data.hash == data.subset(torch.arange(12)).hash

    one_pixel = data.images.clone()
    one_pixel[5, 0, 3, 4] ^= 1
    one_label = data.labels.clone()
    one_label[5] = 0
    others = [
        Dataset(one_pixel, data.labels, 10, "digits", "all"),
        Dataset(data.images, one_label, 10, "digits", "all"),
        data.subset(torch.arange(11, -1, -1)),
        data.subset(torch.arange(11)),
        data.subset(torch.arange(0)),
    ]
    assert len({data.hash, *(other.hash for other in others)}) == 6


def test_the_hash_does_not_depend_on_memory_layout() -> None:
    data = digits()
    turned = data.images.transpose(2, 3).contiguous().transpose(2, 3)
    assert not turned.is_contiguous()
    assert Dataset(turned, data.labels, 10, "digits", "all").hash == data.hash


def test_subset_takes_indices_and_masks() -> None:
    data = digits()
    assert torch.equal(data.subset(torch.tensor([7, 2])).images, data.images[[7, 2]])
    sevens = data.subset(data.labels == 7)
    assert len(sevens) == 1
    assert sevens.num_classes == 10


def test_the_split_is_disjoint_complete_and_by_seed() -> None:
    data = digits(100)
    train, validation = train_validation_split(data, 30, seed=1)
    assert (len(train), len(validation), validation.split) == (70, 30, "validation")
    pieces = {image.numpy().tobytes() for part in (train, validation) for image in part.images}
    assert pieces == {image.numpy().tobytes() for image in data.images}  # random images are all different
    assert train_validation_split(data, 30, seed=1)[0].hash == train.hash
    assert train_validation_split(data, 30, seed=2)[0].hash != train.hash


def test_a_longer_validation_split_holds_the_shorter_one() -> None:
    data = digits(100)
    short, long = (train_validation_split(data, n, seed=3)[1] for n in (10, 40))
    inside = {image.numpy().tobytes() for image in long.images}
    assert all(image.numpy().tobytes() in inside for image in short.images)


@pytest.mark.parametrize("validation", [12, 5000, -1])
def test_a_split_that_leaves_nothing_is_refused(validation: int) -> None:
    with pytest.raises(DataError, match=f"{validation} validation images cannot be held out of 12"):
        train_validation_split(digits(), validation)


# --- Names and places ---


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MNISTGEN_DATA", str(tmp_path / "env"))
    assert data_folder(tmp_path / "flag") == tmp_path / "flag"
    assert data_folder() == tmp_path / "env"
    monkeypatch.delenv("MNISTGEN_DATA")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder() == tmp_path / "cache" / "mnistgen" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder() == tmp_path / ".cache" / "mnistgen" / "data"


@pytest.mark.skipif(sys.platform == "win32", reason="users and homes of POSIX")
def test_the_data_folder_of_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def nobody(_: object) -> None:
        raise KeyError

    for name in ("MNISTGEN_DATA", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(sys, "platform", "linux")
    assert data_folder() == Path(tempfile.gettempdir()) / f"mnistgen-{os.getuid()}" / "data"
    with pytest.raises(DataError, match="MNIST is not in"):
        load_data("mnist", download=False)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'kmnist'"):
        load_data("kmnits")
    with pytest.raises(UsageError, match=r"no split 'tset'.*Did you mean 'test'"):
        load_data("mnist", "tset")


@pytest.mark.parametrize("path", ["nowhere.csv", "no/where", Path("mnist")])
def test_a_path_that_is_not_there_is_named(path: str | Path) -> None:
    with pytest.raises(DataError, match=f"{path}: there is no such file"):
        load_data(path)


@pytest.mark.parametrize("path", ["a" * 5000, "a/" * 4000, "nul\0byte", "~nobody-of-that-name"])
def test_a_path_that_cannot_be_is_an_error_like_any_other(path: str) -> None:
    with pytest.raises(MnistgenError):
        load_data(path)


def test_the_name_of_local_data_is_safe_in_file_names(tmp_path: Path) -> None:
    path = tmp_path / "My digits (v2).CSV"
    write_csv(path, rows(digits()))
    assert load_data(path).name == "my-digits-v2-csv"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "digits.csv")
    with pytest.raises(DataError, match="not a regular file"):
        load_data(tmp_path / "digits.csv")


# --- Named datasets, in torchvision's layout ---


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_the_mnist_family(tmp_path: Path, name: str, folder: str, packed: bool) -> None:
    train, test = digits(12, seed=1), digits(10, seed=2)
    write_mnist(tmp_path / folder / "raw", train, test, packed=packed)
    for split, data in (("train", train), ("test", test)):
        loaded = load_data(name, split, data_dir=tmp_path, download=False)
        assert (loaded.hash, loaded.name, loaded.split) == (data.hash, name, split)
        assert (loaded.num_classes, len(loaded.class_names)) == (10, 10)
    both = load_data(name, "all", data_dir=tmp_path)
    assert torch.equal(both.labels, torch.cat([train.labels, test.labels]))
    assert available_splits(name, data_dir=tmp_path) == ("train", "test")


def test_torchvision_reads_the_same(tmp_path: Path) -> None:
    train, test = digits(12, seed=1), digits(10, seed=2)
    write_mnist(tmp_path / "MNIST" / "raw", train, test)
    theirs = torchvision_shim.import_torchvision().datasets.MNIST(tmp_path, train=False, download=False)
    ours = load_data("mnist", "test", data_dir=tmp_path)
    assert torch.equal(theirs.data, ours.images.squeeze(1))
    assert torch.equal(theirs.targets, ours.labels)


@pytest.mark.parametrize("split", ["byclass", "bymerge", "balanced", "letters", "digits", "mnist"])
def test_emnist_stands_upright_and_counts_from_zero(tmp_path: Path, split: str) -> None:
    classes = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}[split]
    upright = digits(classes + 3, classes)
    lying = Dataset(upright.images.transpose(2, 3), upright.labels, classes, "lying", "all")
    files = f"emnist-{split}-train-images-idx3-ubyte", f"emnist-{split}-train-labels-idx1-ubyte"
    raw = tmp_path / "EMNIST" / "raw"
    write_idx(raw, lying, *files, packed=split == "letters", first=1 if split == "letters" else 0)
    loaded = load_data(f"emnist-{split}", data_dir=tmp_path, download=False)
    assert loaded.hash == upright.hash
    assert loaded.num_classes == len(loaded.class_names) == classes
    names = torchvision_shim.import_torchvision().datasets.EMNIST.classes_split_dict[split]
    assert loaded.class_names == tuple(name for name in names if name != "N/A")

    by_path = load_data(next(raw.glob("*images*")))
    assert (by_path.hash, by_path.num_classes) == (upright.hash, classes)


def test_qmnist_takes_the_class_from_the_first_of_eight_columns(tmp_path: Path) -> None:
    data = digits()
    raw = tmp_path / "QMNIST" / "raw"
    raw.mkdir(parents=True)
    table = np.full((12, 8), 70000)
    table[:, 0] = data.labels
    (raw / "qmnist-test-images-idx3-ubyte").write_bytes(idx(data.images.squeeze(1).numpy()))
    (raw / "qmnist-test-labels-idx2-int").write_bytes(idx(table, 12))
    assert load_data("qmnist", "test", data_dir=tmp_path, download=False).hash == data.hash
    assert load_data(raw / "qmnist-test-images-idx3-ubyte").hash == data.hash


def test_a_label_that_the_dataset_does_not_have_is_named(tmp_path: Path) -> None:
    data = digits(12, 12)
    write_mnist(tmp_path / "MNIST" / "raw", data, digits())
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: label 10 of image 10 is out of range; .* 0\.\.9"):
        load_data("mnist", data_dir=tmp_path)


def test_letters_do_not_have_a_class_zero(tmp_path: Path) -> None:
    files = "emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte"
    write_idx(tmp_path / "EMNIST" / "raw", digits(), *files)
    with pytest.raises(DataError, match=r"label 0 of image 0 is out of range; labels are 1\.\.26"):
        load_data("emnist-letters", data_dir=tmp_path)


def test_missing_files_and_the_ways_to_provide_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)MNIST/raw lacks train-images-idx3-ubyte, .*--data-dir.*MNISTGEN_DATA.*CSV, NPZ"
    ):
        load_data("mnist", data_dir=tmp_path, download=False)
    assert list(tmp_path.iterdir()) == []


def test_real_mnist_is_read_right(mnist: Dataset) -> None:
    assert len(mnist) == 60000
    assert mnist.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.images.double().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)


# --- IDX by path ---


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_idx_files(tmp_path: Path, packed: bool) -> None:
    train, test = digits(12, 9), digits(10)
    write_mnist(tmp_path / "mine", train, test, packed=packed)
    loaded = load_data(tmp_path / "mine")
    assert (loaded.hash, loaded.name, loaded.split) == (train.hash, "mine", "train")
    assert loaded.num_classes == 10  # the test split has a class more
    assert load_data(tmp_path / "mine", "test").hash == test.hash


def test_an_idx_file_finds_its_labels_and_has_one_split(tmp_path: Path) -> None:
    data = digits()
    write_idx(tmp_path, data, "scans-images.idx3-ubyte", "scans-labels.idx1-ubyte")
    path = tmp_path / "scans-images.idx3-ubyte"
    assert available_splits(path) == ("all",)
    assert {load_data(path, split).hash for split in ("train", "all")} == {data.hash}
    with pytest.raises(DataError, match="no test split: it is not divided"):
        load_data(path, "test")


def test_gzip_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    data = digits()
    write_idx(tmp_path, data, "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")  # not packed
    assert load_data(tmp_path).hash == data.hash


IMAGES = idx(digits(3).images.squeeze(1).numpy())
LABELS = idx(digits(3).labels.numpy())


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (b"", LABELS, "images.* is not an IDX file: it is empty"),
        (IMAGES[:3], LABELS, "images.* is not an IDX file"),
        (IMAGES[:10], LABELS, "images.* ends within its header, after 10 bytes"),
        (IMAGES[:-1], LABELS, r"images.* claims \(3, 28, 28\) uint8, 2,352 bytes, but it holds only 2,351"),
        (IMAGES + b"x", LABELS, "images.* 2,352 bytes, but it holds 2,353"),
        (b"\x89PNG" + IMAGES, LABELS, "images.* is not an IDX file: it looks like a PNG image"),
        (b"<html>" + IMAGES, LABELS, "images.* is not an IDX file: it looks like a web page"),
        (LABELS, LABELS, r"images.* holds labels \(an array of 1 axes\), where 3 or 4 axes"),
        (IMAGES, IMAGES, r"labels.* holds images \(an array of 3 axes\), where 1 or 2 axes"),
        (IMAGES, idx(np.arange(2)), "images.* holds 3 images, but .*labels.* holds 2 labels"),
        (IMAGES, idx(np.arange(3) + 0.5, 13), "labels.* are .* float32; they must be"),
        (IMAGES, idx(np.array([0, -1, 2]), 12), "labels.* label -1 of image 1 is out of range"),
        (idx(np.zeros((0, 28, 28))), LABELS, r"images.* is empty: its shape is \(0, 28, 28\)"),
        (idx(np.zeros((3, 28, 27))), LABELS, "images.* are 28x27 grayscale uint8; .*--resize"),
        (idx(np.full((3, 28, 28), 7), 13), LABELS, "images.*: every pixel is 7, so the images show nothing"),
        (gzip.compress(IMAGES)[:-40], LABELS, "images.*gzip data is broken or cut short"),
        (gzip.compress(IMAGES)[:-4] + b"\1\2\3\4", LABELS, "images.*gzip data is broken"),
        (gzip.compress(IMAGES + bytes(1000)), LABELS, "images.* 2,352 bytes, but it holds a different number"),
        (gzip.compress(IMAGES[:-5]), LABELS, "images.*holds only 2,347: the file is cut short"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}-bytes",
)
def test_broken_idx(tmp_path: Path, images: bytes, labels: bytes, says: str) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(DataError, match=says):
        load_data(tmp_path)


def test_idx_whose_labels_or_meaning_are_missing(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(IMAGES)
    bare = load_data(tmp_path)
    assert (len(bare), bare.labels, bare.num_classes) == (3, None, 1)
    (note,) = bare.notes
    assert note.endswith("there is no train-labels-idx1-ubyte beside it, so that these images have no labels.")
    assert load_data(tmp_path / "train-images-idx3-ubyte").hash == bare.hash
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(LABELS)
    with pytest.raises(DataError, match="holds labels, by its name"):
        load_data(tmp_path / "train-labels-idx1-ubyte")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="cannot be told from its name"):
        load_data(tmp_path / "notes.txt")
    (tmp_path / "other-train-images-idx3-ubyte").write_bytes(IMAGES)
    with pytest.raises(DataError, match="more than one file of train images"):
        load_data(tmp_path)


# --- What headers claim ---

HUGE = struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**31, 28)
LARGE = struct.pack(">4B3I", 0, 0, 8, 3, 4_000_000, 28, 28)


def npy(descr: str, shape: tuple[int, ...], content: bytes = b"", order: bool = False) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode("utf-8", "replace")
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        for name, content in members.items():
            target.writestr(f"{name}.npy", content)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, pixels: bytes, depth: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train-images-idx3-ubyte", HUGE),
        ("train-images-idx3-ubyte", LARGE),
        ("train-images-idx3-ubyte", gzip.compress(HUGE + bytes(100))),
        ("train-images-idx3-ubyte", gzip.compress(LARGE + bytes(100))),
        ("train-images-idx3-ubyte", gzip.compress(LARGE + bytes(5_000_000))),
        ("huge.npz", archive({"images": npy("|u1", (2**40, 28, 28)), "labels": npy("<i8", (2**40,))})),
        ("large.npz", archive({"images": npy("|u1", (10**6, 28, 28)), "labels": npy("<i8", (10**6,))})),
        ("objects.npz", archive({"images": npy("|O", (10, 28, 28)), "labels": npy("<i8", (10,))})),
        ("1/huge.png", png(2**31 - 1, 2**31 - 1, zlib.compress(b"\0"))),
        ("1/large.png", png(4096, 4096, zlib.compress(b"\0"))),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}-bytes",
)
def test_a_claim_allocates_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(LABELS)
    source = tmp_path / name if name.endswith(".npz") else tmp_path
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=Path(name).name):
            load_data(source)
        assert tracemalloc.get_traced_memory()[1] < 25e6
    finally:
        tracemalloc.stop()


def test_an_archive_that_lies_about_its_sizes_unpacks_no_more_than_is_claimed(tmp_path: Path) -> None:
    claim = npy("|u1", (2, 28, 28))
    bomb = archive({"images": claim + bytes(50_000_000), "labels": npy("<i8", (2,), bytes(16))})
    (tmp_path / "bomb.npz").write_bytes(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"bomb.npz, array 'images': the header claims \(2, 28, 28\)"):
            load_data(tmp_path / "bomb.npz")
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


# --- CSV ---


@pytest.mark.parametrize(
    "header", [HEADER, None, "label," + ",".join(f"{i}x{j}" for i in range(28) for j in range(28))]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv(tmp_path: Path, header: str | None, end: str) -> None:
    data = digits(40)
    path = tmp_path / "digits.csv"
    write_csv(path, rows(data), header, end)
    loaded = load_data(path)
    assert (loaded.hash, loaded.num_classes, loaded.split) == (data.hash, 10, "all")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip())  # a spreadsheet's mark, no last newline
    assert load_data(path).hash == data.hash


def test_csv_columns_are_taken_by_their_names(tmp_path: Path) -> None:
    data = digits()
    order = np.random.default_rng(0).permutation(785)
    names = HEADER.split(",")
    write_csv(tmp_path / "d.csv", [[row[k] for k in order] for row in rows(data)], ",".join(names[k] for k in order))
    assert load_data(tmp_path / "d.csv").hash == data.hash


def test_csv_that_is_longer_than_a_block_keeps_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "BLOCK", 5000)
    data = digits(50)
    table: list[list[Any]] = rows(data)
    write_csv(tmp_path / "d.csv", table)
    assert load_data(tmp_path / "d.csv").hash == data.hash
    table[37][5] = "x"
    write_csv(tmp_path / "d.csv", table)
    with pytest.raises(DataError, match="line 39, column 'pixel4': 'x'"):
        load_data(tmp_path / "d.csv")


def test_csv_as_other_tools_write_it(tmp_path: Path) -> None:
    data = digits()
    loose = [[f' "{value}"' if k % 2 else f"{value}.0" for k, value in enumerate(row)] for row in rows(data)]
    write_csv(tmp_path / "d.csv", loose, end="\n\n")
    assert load_data(tmp_path / "d.csv").hash == data.hash


def _changed(row: int, column: int, value: Any) -> list[list[Any]]:
    table: list[list[Any]] = rows(digits(5))
    table[row][column] = value
    return table


@pytest.mark.parametrize(
    ("table", "header", "says"),
    [
        ([], HEADER, "holds no images: there is no line after the header"),
        (rows(digits(5)), HEADER.replace("label", "id"), "line 1: the column 'label' is missing"),
        ([row[:-1] for row in rows(digits(5))], HEADER.replace(",pixel345", ""), "the column 'pixel345' is missing"),
        ([row[:-2] for row in rows(digits(5))], None, "there are 783 columns; there must be 785"),
        (rows(digits(5)), HEADER.replace("pixel345", "id"), "the column 'id' is neither"),
        ([*rows(digits(5)), [1, 2, 3]], HEADER, "line 7 has 3 columns; there must be 785"),
        (_changed(2, 10, "x"), HEADER, "line 4, column 'pixel9': 'x' is not a whole number"),
        (_changed(2, 10, "x"), None, "line 3, column 'pixel9': 'x' is not a whole number"),
        (_changed(2, 10, ""), None, "line 3, column 'pixel9': '' is not a whole number"),
        (_changed(2, 10, "0.5"), None, "line 3, column 'pixel9': '0.5' is not a whole number"),
        (_changed(2, 10, "nan"), None, "line 3, column 'pixel9': 'nan' is not a whole number"),
        (_changed(4, 784, 256), HEADER, r"line 6, column 'pixel783': the pixel 256 is out of range 0\.\.255"),
        (_changed(4, 784, -1), HEADER, "line 6, column 'pixel783': the pixel -1 is out of range"),
        (_changed(1, 0, 1000), HEADER, r"line 3, column 'label': the label 1000 is out of range 0\.\.999"),
        (_changed(1, 0, -1), HEADER, "line 3, column 'label': the label -1 is out of range"),
        ([[1, *range(64)]], None, "line 1: the images are 8x8 grayscale; .*--resize"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_broken_csv(tmp_path: Path, table: list[list[Any]], header: str | None, says: str) -> None:
    path = tmp_path / "digits.csv"
    write_csv(path, table, header)
    with pytest.raises(DataError, match=says) as caught:
        load_data(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a CSV file of images: it is empty"),
        (b"PK\3\4\0\0\0", "it looks like a zip archive"),
        ("label,pixel0\n".encode("utf-16"), "is not a CSV file"),
        (b"x" * (csv.LARGEST_LINE + 5), "line 1 is longer than"),
        (HEADER.encode() + b"\n" + b"1" * (2 * csv.LARGEST_LINE), "a line after line 2 is longer than"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}-bytes",
)
def test_what_is_no_csv(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        load_data(tmp_path / "d.csv")


# --- NPZ ---


@pytest.mark.parametrize("pair", [("images", "labels"), ("x", "y"), ("X", "Y"), ("data", "labels")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, pair: tuple[str, str], save: Callable[..., None]) -> None:
    data = digits()
    images = data.images.numpy()
    for view in (
        images[:, 0],
        images,
        images.transpose(0, 2, 3, 1),
        images.reshape(12, 784),
        np.asfortranarray(images),
    ):
        save(tmp_path / "d.npz", **{pair[0]: view, pair[1]: data.labels.numpy().astype(np.int32)})
        assert load_data(tmp_path / "d.npz").hash == data.hash


@pytest.mark.parametrize("pattern", ["{kind}_{split}", "{split}_{kind}"])
def test_npz_with_two_splits(tmp_path: Path, pattern: str) -> None:
    splits = {"train": digits(12, 9), "test": digits(10)}
    kinds = ("x", "y") if pattern.startswith("{kind}") else ("images", "labels")
    arrays = {}
    for split, data in splits.items():
        arrays[pattern.format(split=split, kind=kinds[0])] = data.images.numpy()
        arrays[pattern.format(split=split, kind=kinds[1])] = data.labels.numpy()[:, None]
    np.savez(tmp_path / "d.npz", **arrays)
    for split, data in splits.items():
        loaded = load_data(tmp_path / "d.npz", split)
        assert (loaded.hash, loaded.num_classes, loaded.split) == (data.hash, 10, split)
    assert len(load_data(tmp_path / "d.npz", "all")) == 22


ARRAYS = {"images": boxes(), "labels": np.arange(3)}


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (
            {"x_train": ARRAYS["images"], "y_train": ARRAYS["labels"], "x_test": ARRAYS["images"]},
            "'x_test' but no 'y_test'",
        ),
        ({"a": ARRAYS["images"]}, "has the arrays 'a'; it needs 'images'"),
        (ARRAYS | {"labels": np.arange(2)}, "'images' holds 3 images, but array 'labels' holds 2 labels"),
        (ARRAYS | {"labels": np.eye(3)}, "'labels': labels are .*; they must be .* labels.argmax"),
        (ARRAYS | {"labels": np.array([0, 1, 1.5])}, "'labels': labels are .* float64; they must be"),
        (ARRAYS | {"labels": np.array([0, 1, 1000])}, "'labels': label 1000 of image 2 is out of range"),
        (ARRAYS | {"labels": np.array([0, 1, -5])}, "'labels': label -5 of image 2 is out of range"),
        (ARRAYS | {"labels": np.array([0, 1, 2], object)}, "'labels' holds Python objects, which are never unpickled"),
        (ARRAYS | {"images": np.zeros((3, 32, 32, 3), np.uint8)}, "'images': the images are 32x32 RGB uint8"),
        (ARRAYS | {"images": boxes(dtype=np.float32) * 2}, "'images': pixels go from 0 to 400; they must be in 0..255"),
        (ARRAYS | {"images": boxes(dtype=np.int64) - 50}, "'images': pixels go from -50 to 150; .*Add --stretch"),
        (ARRAYS | {"images": np.zeros((0, 28, 28), np.uint8)}, "'images' is empty"),
        (
            ARRAYS | {"images": np.zeros((3, 785), np.uint8)},
            "rows of 785 numbers, which are not the pixels of a square",
        ),
        (ARRAYS | {"images": np.zeros(3, np.uint8)}, r"the shape \(3,\) is not one of images"),
        (ARRAYS | {"num_classes": np.array(2)}, r"'num_classes': it must be one whole number in 3\.\.1000"),
        (ARRAYS | {"class_names": np.array(["a"])}, "'class_names': it must be 3 strings"),
    ],
)
def test_broken_npz(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=says) as caught:
        load_data(path)
    assert str(caught.value).startswith(str(path))


def test_npz_that_is_cut_short_or_something_else(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, **ARRAYS)
    whole = path.read_bytes()
    for content, says in (
        (b"", "not an NPZ file, or is cut short: it is empty"),
        (whole[:-30], "not an NPZ file, or is cut short"),
        (b"\x89PNG" + whole[4:50], "it looks like a PNG image"),
        (whole.replace(bytes(100), b"\1" * 100, 1), "array 'images' is broken"),
        (archive({}), "holds no arrays"),
        (archive({"images": b"hello", "labels": b""}), "'images' is not a NumPy array"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=says):
            load_data(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    for key in ("images", "labels", "num_classes", "class_names"):
        np.savez(tmp_path / "d.npz", **(ARRAYS | {key: np.array([Trap()] * 3, object)}))
        with pytest.raises(DataError, match="Python objects"):
            load_data(tmp_path / "d.npz")
    assert not (tmp_path / "sprung").exists()


# --- Folders of images ---


def test_a_folder_of_images(tmp_path: Path) -> None:
    data = digits(20, 4)
    for split, top in (("all", tmp_path / "whole"), ("test", tmp_path / "divided" / "test")):
        for k, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
            folder = top / ("cat", "dog", "emu", "fox")[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{k:03}.png")
            (folder / "notes.txt").write_text("not a picture")
        root = tmp_path / ("whole" if split == "all" else "divided")
        (root / "provenance.json").write_text("{}")
        (root / ".hidden").mkdir()
        (tmp_path / "divided" / "train" / "gnu").mkdir(parents=True, exist_ok=True)
        loaded = load_data(root, split)
        assert loaded.hash == data.hash
        assert loaded.class_names == (
            ("cat", "dog", "emu", "fox") if split == "all" else ("cat", "dog", "emu", "fox", "gnu")
        )
    with pytest.raises(DataError, match="train holds no images"):
        load_data(tmp_path / "divided")


def test_folders_named_by_numbers_are_the_labels(tmp_path: Path) -> None:
    for name in ("10", "3", "100"):
        (tmp_path / name).mkdir()
        Image.new("L", (28, 28), int(name)).save(tmp_path / name / "a.png")
    data = load_data(tmp_path)
    assert (data.labels.tolist(), data.num_classes, data.class_names) == ([3, 10, 100], 101, ())
    assert data.images[:, 0, 0, 0].tolist() == data.labels.tolist()


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("RGB", "24x32 RGB"),
        ("RGBA", "24x32 RGBA"),
        ("L", "24x32 grayscale"),
        ("1", "24x32 1-bit"),
        ("P", "24x32 palette"),
        ("I;16", "24x32 of mode I;16"),
    ],
)
def test_pictures_of_another_size(tmp_path: Path, mode: str, says: str) -> None:
    (tmp_path / "0").mkdir()
    picture = Image.fromarray(boxes(1, 24, 32)[0])
    if mode == "I;16":
        picture = Image.fromarray(boxes(1, 24, 32)[0].astype(np.uint16) * 257)
    picture.convert(mode).save(tmp_path / "0" / "a.png")
    with pytest.raises(DataError, match=f"a.png: the images are {says}.*; MNIST-format .*--resize"):
        load_data(tmp_path)
    data = load_data(tmp_path, resize=True)
    assert data.images.max() == (255 if mode == "1" else 200)
    assert "resized from 24x32 to 28x28, which stretches them" in data.notes[0]


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"holds no images: it has neither IDX files .* nor a folder of images for each"
    ):
        load_data(tmp_path)
    (tmp_path / "0").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load_data(tmp_path)
    path = tmp_path / "0" / "a.png"
    for content, says in (
        (b"", "cannot be read as a picture: it is empty"),
        (b"<svg>", "cannot be read as a picture: it looks like a web page"),
        (png(28, 28, zlib.compress(bytes(29 * 28)))[:-40], "cannot be read as a picture"),
        (png(28, 28, b"rubbish"), "cannot be read as a picture"),
        (png(5000, 28, zlib.compress(b"")), "28x5000 pixels; the largest"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"a.png.*{says}"):
            load_data(tmp_path)
    (tmp_path / "1000").mkdir()
    with pytest.raises(DataError, match=r"class 1000 is out of range 0\.\.999"):
        load_data(tmp_path)


# --- Images that may have no labels ---


def write_pictures(folder: Path, images: torch.Tensor, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image, name in zip(images, names, strict=True):
        Image.fromarray(image[0].numpy()).save(folder / name)


@pytest.mark.parametrize(("format", "path"), [("npz", "d.npz"), ("csv", "d.csv"), ("png", "d"), ("idx", "d")])
def test_load_images_reads_what_load_data_reads(tmp_path: Path, format: str, path: str) -> None:  # noqa: A002
    data = digits(30, 9)
    export_data(data, tmp_path / path, format)
    found = load_images(tmp_path / path)
    assert torch.equal(found.images, data.images)
    assert found.labels is not None
    assert torch.equal(found.labels, data.labels)
    assert (found.num_classes, found.name) == (9, load_data(tmp_path / path).name)


def test_one_of_several_splits_has_to_be_chosen(tmp_path: Path) -> None:
    train, test = digits(12, seed=1), digits(10, seed=2)
    write_mnist(tmp_path / "KMNIST" / "raw", train, test)
    for source in ("kmnist", str(tmp_path / "KMNIST")):
        read = partial(load_images, source, data_dir=tmp_path, download=False)
        with pytest.raises(UsageError, match=f"{source} has the splits 'train' and 'test'; choose one"):
            read()
        for split, images in (("test", test.images), ("all", torch.cat([train.images, test.images]))):
            assert torch.equal(read(split=split).images, images)
    with pytest.raises(UsageError, match=r"no split 'tset'.*Did you mean 'test'"):
        load_images("kmnist", split="tset", data_dir=tmp_path)
    with pytest.raises(DataError, match="downloading is off"):
        load_images("mnist", split="test", data_dir=tmp_path, download=False)


def test_a_folder_of_pictures_has_no_labels(tmp_path: Path) -> None:
    folder, data = tmp_path / "My Samples", digits(4)
    write_pictures(folder, data.images, ["10.png", "2.PNG", "B.bmp", "a.png"])  # in the order of their names
    write_pictures(folder, data.images[:1], [".hidden.png"])
    write_pictures(folder / ".hidden", data.images[:1], ["0.png"])
    (folder / "logs").mkdir()
    (folder / "logs" / "notes.txt").write_text("not a picture")
    (folder / "provenance.json").write_text("{}")
    for split in ("", "train", "all"):
        found = load_images(folder, split=split)
        assert torch.equal(found.images, data.images)
        assert (found.labels, found.num_classes, found.name) == (None, 1, "my-samples")
    with pytest.raises(DataError, match="no test split: it is not divided"):
        load_images(folder, split="test")
    assert load_data(folder).hash == found.hash


def test_class_folders_stay_class_folders_whatever_they_are_called(tmp_path: Path) -> None:
    data = digits(3)
    write_pictures(tmp_path / "cat.png", data.images[:2], ["0.png", "2.png"])  # by its name a picture, but a folder
    write_pictures(tmp_path / "dog", data.images[2:], ["1.png"])
    found = load_images(tmp_path)
    assert found.labels is not None
    assert (found.labels.tolist(), found.num_classes) == ([0, 1, 0], 2)
    assert torch.equal(found.images, data.images[[0, 2, 1]])


@pytest.mark.parametrize("below", ["7", "cats"])
def test_pictures_beside_folders_of_pictures_are_refused(tmp_path: Path, below: str) -> None:
    data = digits(2)
    write_pictures(tmp_path, data.images[:1], ["grid.png"])
    write_pictures(tmp_path / below, data.images[1:], ["0.png"])
    with pytest.raises(
        DataError, match=f"pictures, such as grid.png, and folders of pictures, such as {below}: .* Move"
    ):
        load_images(tmp_path)


def test_a_folder_without_images_and_a_single_picture_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"holds no images: it has neither IDX files .* each class, nor images without"):
        load_images(tmp_path)
    (tmp_path / "0").mkdir()
    with pytest.raises(DataError, match="holds no images: its 1 class folders"):
        load_images(tmp_path)
    write_pictures(tmp_path, digits(1).images, ["grid.png"])
    with pytest.raises(DataError, match=r"grid.png is a single picture, .*; give a folder of pictures.*--photographs"):
        load_images(tmp_path / "grid.png")


@pytest.mark.parametrize("name", ["images", "x", "X", "data", "image", "arr_0", "samples"])
def test_npz_without_labels(tmp_path: Path, name: str) -> None:
    data = digits()
    for view in (data.images.numpy(), data.images[:, 0].numpy(), data.images.flatten(1).numpy()):
        np.savez(tmp_path / "d.npz", **{name: view, "seeds": np.arange(12), "num_classes": np.array(10)})
        found = load_images(tmp_path / "d.npz")
        assert torch.equal(found.images, data.images)
        assert (found.labels, found.num_classes, found.name) == (None, 1, "d-npz")
    with pytest.raises(DataError, match="no test split"):
        load_images(tmp_path / "d.npz", split="test")
    assert load_data(tmp_path / "d.npz").hash == found.hash


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("samples", "images"), "has more than one array of images, 'images' and 'samples'"),
        (("images", "y", "labels"), "has more than one array of labels, 'labels' and 'y'"),
        (("a", "b"), "has the arrays 'a', 'b'; it needs 'images'"),
        (("a", "labels"), "has the array 'labels' but no 'images'. There is a"),
        (("x_train", "y_train", "x_test"), "has the array 'x_test' but no 'y_test'. There is no other array"),
    ],
)
def test_npz_whose_labels_or_images_cannot_be_told(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    arrays = (boxes(), np.arange(3), np.arange(3))
    np.savez(tmp_path / "d.npz", **dict(zip(names, arrays, strict=False)))
    with pytest.raises(DataError, match=f"d.npz {says}"):
        load_images(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("array", "resize", "says"),
    [
        (np.zeros((3, 32, 32), np.uint8), False, "'samples': the images are 32x32 grayscale uint8; .*--resize"),
        (np.zeros((3, 28, 28), np.float32), False, "'samples': every pixel is 0, so the images show nothing"),
        (np.full((3, 28, 28), 3.5) * [[[-1], *[[1]] * 27]], True, r"'samples': pixels go from -3.5 to 3.5; .*0\.\.255"),
        (np.zeros((0, 28, 28), np.uint8), True, "'samples' is empty"),
        (np.zeros((2, 3, 4, 28, 28), np.uint8), True, "'samples': an array of 5 axes holds neither images"),
        (np.zeros(784, np.uint8), True, r"'samples': the shape \(784,\) is not one of images"),
        (np.array([None]), True, "'samples' holds Python objects, which are never unpickled"),
    ],
)
def test_images_without_labels_are_held_to_the_format(
    tmp_path: Path, array: np.ndarray[Any, Any], resize: bool, says: str
) -> None:
    np.savez(tmp_path / "d.npz", samples=array)
    with pytest.raises(DataError, match=f"d.npz, array {says}"):
        load_images(tmp_path / "d.npz", resize=resize)


def test_images_without_labels_are_converted_where_that_is_asked_for(tmp_path: Path) -> None:
    data = digits()
    np.savez(tmp_path / "d.npz", samples=to_float(data.images).numpy())
    assert torch.equal(load_images(tmp_path / "d.npz", resize=True).images, data.images)
    (tmp_path / "p").mkdir()
    Image.fromarray(boxes(1, 32, 32)[0]).convert("RGB").save(tmp_path / "p" / "a.png")
    with pytest.raises(DataError, match=r"a\.png: the images are 32x32 RGB; .*--resize"):
        load_images(tmp_path / "p")
    assert load_images(tmp_path / "p", resize=True).images.max() == 200


def test_broken_files_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, samples=ARRAYS["images"])
    whole = path.read_bytes()
    for content, says in (
        (b"", "not an NPZ file, or is cut short: it is empty"),
        (whole[:-30], "not an NPZ file, or is cut short"),
        (whole.replace(bytes(100), b"\1" * 100, 1), "array 'samples' is broken"),
        (archive({"samples": npy("|u1", (10**6, 28, 28))}), r"array 'samples': the header claims \(1000000, 28, 28\)"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"d.npz.* {says}"):
            load_images(path)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"<svg>")
    with pytest.raises(DataError, match=r"a\.png cannot be read as a picture: it looks like a web page"):
        load_images(tmp_path / "p")


@pytest.mark.parametrize(
    "source", ["kmnits", "emnist", "nowhere.csv", "nowhere.png", "no/where", Path("mnist"), "a" * 5000, "nul\0byte"]
)
def test_what_is_not_there_is_the_error_of_load_data(source: str | Path) -> None:
    with pytest.raises(MnistgenError) as theirs:
        load_data(source)
    with pytest.raises(type(theirs.value)) as ours:
        load_images(source)
    assert str(ours.value) == str(theirs.value)


# --- Conversion ---


def test_resize_keeps_what_is_in_the_format_already() -> None:
    data = digits()
    assert torch.equal(converted(data.images.numpy()), data.images)


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"),
    [
        ("f4", 1 / 255, 0.0),
        ("f8", 1 / 255, 0.0),
        ("f4", 2 / 255, -1.0),
        (">f4", 1.0, 0.0),
        ("i8", 1, 0),
        ("u2", 257, 0),
    ],
)
def test_other_ranges_come_back_exactly(dtype: str, scale: float, offset: float) -> None:
    data = digits()
    array = (data.images.numpy() * np.float64(scale) + offset).astype(dtype)
    assert torch.equal(converted(array), data.images)


def test_grey_as_rgb_comes_back_exactly_in_either_layout() -> None:
    data = digits()
    rgb = data.images.numpy().repeat(3, axis=1)
    assert torch.equal(converted(rgb), data.images)
    assert torch.equal(converted(rgb.transpose(0, 2, 3, 1)), data.images)
    alpha = np.zeros_like(rgb[:, :1])
    alpha[..., 14:, :] = 255
    assert converted(np.concatenate([rgb, alpha], axis=1))[:, :, :14].max() == 0


def test_colours_have_the_weights_of_bt601() -> None:
    rgb = np.zeros((3, 28, 28, 3), np.uint8)
    for k in range(3):
        rgb[k, :, :, k] = 255
    assert converted(rgb)[:, 0, 0, 0].tolist() == [76, 150, 29]


def test_resize_averages_over_the_pixels_it_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    checkered = (np.indices((56, 56)).sum(0) % 2 * 255).astype(np.uint8)
    small = converted(np.stack([checkered] * 3))
    assert ((small.int() - 127).abs() <= 4).all()  # without antialiasing it would be black or white
    monkeypatch.setattr(convert, "CHUNK", 1)
    assert torch.equal(converted(np.stack([checkered] * 3)), small)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3.0, 256.0])
def test_pixels_out_of_every_range_are_refused(value: float) -> None:
    with pytest.raises(DataError, match="pixels go from"):
        converted(np.array([0, value]).repeat(392).reshape(1, 28, 28))


# --- Export ---


@pytest.mark.parametrize(("format", "path"), [("npz", "d.npz"), ("csv", "d.csv"), ("png", "d"), ("idx", "d")])
def test_export_comes_back_with_the_same_hash(tmp_path: Path, format: str, path: str) -> None:  # noqa: A002
    # Not sorted by class, some names with one digit more, and a last class that has no image.
    data = digits(101, 9, seed=4)
    data = Dataset(data.images, data.labels, 10, "digits", "train")
    export_data(data, tmp_path / path, format, provenance={"Seed": "4"})
    loaded = load_data(tmp_path / path)
    assert loaded.hash == data.hash
    assert loaded.num_classes == (10 if format in ("npz", "png") else 9)
    assert [item.name for item in tmp_path.iterdir()] == [path]


def test_npz_keeps_names_and_where_it_came_from(tmp_path: Path) -> None:
    data = digits(3, 3, class_names=("a", "ß", "c c"))
    export_data(data, tmp_path / "d.npz", "npz", provenance={"Seed": "4"})
    assert load_data(tmp_path / "d.npz").class_names == data.class_names
    with np.load(tmp_path / "d.npz", allow_pickle=False) as file:
        assert "Seed" in str(file["provenance"])
    first = (tmp_path / "d.npz").read_bytes()
    export_data(data, tmp_path / "d.npz", "npz", provenance={"Seed": "4"})
    assert (tmp_path / "d.npz").read_bytes() == first


@pytest.mark.parametrize(("format", "path"), [("npz", "d.npz"), ("csv", "d.csv"), ("png", "d"), ("idx", "d")])
def test_a_failed_export_leaves_nothing(tmp_path: Path, format: str, path: str) -> None:  # noqa: A002
    data = digits(20)

    def images() -> Iterator[Tensor]:
        yield data.images[:10]
        raise KeyboardInterrupt

    stream = ImageStream(images, lambda: iter(data.labels.split(10)), 20, data.num_classes, "d")
    with pytest.raises(KeyboardInterrupt):
        export_data(stream, tmp_path / path, format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format", "path"), [("npz", "d.npz"), ("csv", "d.csv"), ("png", "d"), ("idx", "d")])
def test_pieces_make_the_same_files_as_the_whole(tmp_path: Path, format: str, path: str) -> None:  # noqa: A002
    data = digits(25, 9)
    pieces = [slice(0, 1), slice(1, 20), slice(20, 25)]
    stream = ImageStream(
        lambda: (data.images[piece] for piece in pieces), lambda: (data.labels[piece] for piece in pieces), 25, 9, "d"
    )
    export_data(stream, tmp_path / "stream" / path, format)
    export_data(data, tmp_path / "whole" / path, format)
    names = sorted(file.relative_to(tmp_path / "whole") for file in (tmp_path / "whole").rglob("*") if file.is_file())
    for name in names:
        assert (tmp_path / "stream" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert load_data(tmp_path / "stream" / path).hash == data.hash


@pytest.mark.parametrize("format", ["npz", "csv"])
def test_export_to_standard_output(
    format: str,  # noqa: A002
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.chdir(tmp_path)
    export_data(digits(), Path("-"), format)
    (tmp_path / f"d.{format}").write_bytes(capsysbinary.readouterr().out)
    assert load_data(tmp_path / f"d.{format}").hash == digits().hash
    for other in ("png", "idx"):
        with pytest.raises(UsageError, match=f"{other} is a folder of files, which standard output cannot hold"):
            export_data(digits(), Path("-"), other)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(UsageError, match="fill the terminal"):
        export_data(digits(), Path("-"), "npz")
    assert [item.name for item in tmp_path.iterdir()] == [f"d.{format}"]


def test_exports_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no format 'npy'\. Did you mean 'npz'"):
        export_data(digits(), tmp_path / "d.npy", "npy")
    with pytest.raises(UsageError, match=r"named with \.csv"):
        export_data(digits(), tmp_path / "d.txt", "csv")
    with pytest.raises(DataError, match="300 classes; the labels of IDX files are bytes"):
        export_data(digits(300, 300), tmp_path / "d", "idx")
    whole = ImageStream(lambda: iter(()), lambda: iter(()), 10**15, 10, "d")
    with pytest.raises(UsageError, match=r"d\.npz: 1000000000000000 images would take about 150,000\.0 TB on disk"):
        export_data(whole, tmp_path / "d.npz", "npz")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "precious").touch()
    with pytest.raises(MnistgenError, match="exists already"):
        export_data(digits(), tmp_path / "d", "png")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["precious"]


# --- Downloads ---


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _offer(monkeypatch: pytest.MonkeyPatch, cls: str, **attributes: Any) -> None:
    datasets = torchvision_shim.import_torchvision().datasets
    for name, value in attributes.items():
        monkeypatch.setattr(getattr(datasets, cls), name, value)


def _resources(folder: Path) -> list[tuple[str, str]]:
    return [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(folder.glob("*.gz"))]


def test_download_from_the_first_mirror_that_has_it(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, url = mirror
    train, test = digits(12, seed=1), digits(10, seed=2)
    write_mnist(served / "good", train, test, packed=True)
    write_mnist(served / "stale", test, train, packed=True)
    mirrors = [f"{url}/missing/", f"{url}/stale/", f"{url}/good/", f"{url}/never/"]
    _offer(monkeypatch, "MNIST", mirrors=mirrors, resources=_resources(served / "good"))
    assert load_data("mnist", "test", data_dir=tmp_path / "new" / "data").hash == test.hash
    raw = tmp_path / "new" / "data" / "MNIST" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(sum(FAMILIES["mnist"].files.values(), ()))
    assert {path.name for path in tmp_path.iterdir()} == {"served", "new"}

    (served / "good").rename(served / "gone")
    assert load_data("mnist", data_dir=tmp_path / "new" / "data").hash == train.hash  # from the disk


def test_only_what_is_missing_is_downloaded(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, url = mirror
    theirs, mine = digits(12, seed=1), digits(12, seed=2)
    write_mnist(served, theirs, theirs, packed=True)
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw, mine, mine)
    (raw / "train-labels-idx1-ubyte").unlink()
    _offer(monkeypatch, "MNIST", mirrors=[f"{url}/"], resources=_resources(served))
    assert load_data("mnist", data_dir=tmp_path).hash == mine.hash


def test_a_failed_download_names_what_was_tried_and_leaves_nothing(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, url = mirror
    write_mnist(served / "stale", digits(), digits(), packed=True)
    right = [(name, "0" * 32 if "labels" in name else md5) for name, md5 in _resources(served / "stale")]
    mirrors = [f"{url}/missing/", f"{url}/stale/", "http://127.0.0.1:1/", "nonsense:/"]
    _offer(monkeypatch, "KMNIST", mirrors=mirrors, resources=right)
    with pytest.raises(DataError) as caught:
        load_data("kmnist", data_dir=tmp_path / "data")
    text = str(caught.value)
    for part in (
        *mirrors,
        "HTTP Error 404",
        "checksum",
        "refused",
        "--data-dir",
        "MNISTGEN_DATA",
        "KMNIST/raw",
        "IDX, CSV, NPZ",
    ):
        assert part in text, part
    assert {path.name for path in tmp_path.iterdir()} == {"served"}


class _Hostile(_Quiet):
    """Redirects to other protocols, sends without end, drop by drop, or speaks to the terminal."""

    def do_GET(self) -> None:
        if "/ftp/" in self.path:
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1:1/file.gz")
            self.end_headers()
        elif "/says/" in self.path:
            self.send_error(404, "\x1b[2J\x1b[31mall is well " + "x" * 1000)
        else:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(b"x" if "/slow/" in self.path else b"x" * 1000)
                    time.sleep(0.02 if "/slow/" in self.path else 0)


def test_a_hostile_server_is_left_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "LARGEST_ELSE", 2**20)
    monkeypatch.setattr(downloads, "SLOWEST", 2**20 / 0.3)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hostile) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        mirrors = [f"http://127.0.0.1:{server.server_port}/{kind}/" for kind in ("ftp", "says", "endless", "slow")]
        _offer(monkeypatch, "MNIST", mirrors=mirrors, resources=[("train-images-idx3-ubyte.gz", "0" * 32)])
        with pytest.raises(DataError) as caught:
            load_data("mnist", data_dir=tmp_path / "data")
        server.shutdown()
    ftp, says, endless, slow = [line for line in str(caught.value).splitlines() if line.startswith("  http")]
    assert "ftp" in ftp.partition("gz: ")[2]
    assert r"\x1b[2J" in says
    assert "\x1b" not in says
    assert len(says) < 350
    assert "larger than 1 MiB" in endless or "took longer" in endless
    assert "took longer" in slow
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_mnist_does_not_take_its_place(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, url = mirror
    write_mnist(served, digits(), digits(), packed=True)
    monkeypatch.setitem(FAMILIES, "mnist", replace(FAMILIES["mnist"], sha256={"train-images-idx3-ubyte": "0" * 64}))
    _offer(monkeypatch, "MNIST", mirrors=[f"{url}/"], resources=_resources(served))
    with pytest.raises(DataError, match="another SHA-256 than MNIST's"):
        load_data("mnist", data_dir=tmp_path / "data")
    assert {path.name for path in tmp_path.iterdir()} == {"served"}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_download_leaves_nothing(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    served, url = mirror
    write_mnist(served, digits(), digits(), packed=True)
    _offer(monkeypatch, "MNIST", mirrors=[f"{url}/"], resources=_resources(served))
    unpack, calls = downloads._unpack, []

    def interrupted(path: Path, folder: Path) -> None:
        unpack(path, folder)
        calls.append(path)
        if len(calls) == 3:
            raise stop

    monkeypatch.setattr(downloads, "_unpack", interrupted)
    with pytest.raises(stop):
        load_data("mnist", data_dir=tmp_path / "data")
    assert len(calls) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"served"}


def test_emnist_comes_as_one_archive(tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    served, url = mirror
    data = digits()
    lying = Dataset(data.images.transpose(2, 3), data.labels, 10, "lying", "all")
    write_idx(tmp_path / "gzip", lying, *FAMILIES["emnist-digits"].files["train"], packed=True)
    write_idx(tmp_path / "gzip", lying, *FAMILIES["emnist-digits"].files["test"], packed=True)
    with zipfile.ZipFile(served / "gzip.zip", "w") as target:
        target.writestr("gzip/emnist-digits-mapping.txt", "0 48")
        for path in (tmp_path / "gzip").iterdir():
            target.write(path, f"gzip/{path.name}")
    _offer(
        monkeypatch, "EMNIST", url=f"{url}/gzip.zip", md5=hashlib.md5((served / "gzip.zip").read_bytes()).hexdigest()
    )
    assert load_data("emnist-digits", "test", data_dir=tmp_path / "data").hash == data.hash
    assert len(list((tmp_path / "data" / "EMNIST" / "raw").iterdir())) == 4


def test_qmnist_downloads_the_split_that_is_asked_for(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, url = mirror
    data = digits()
    write_idx(served, data, *FAMILIES["qmnist"].files["test"], packed=True)
    resources = {"test": [(f"{url}/{name}", md5) for name, md5 in _resources(served)], "train": [(f"{url}/no.gz", "0")]}
    _offer(monkeypatch, "QMNIST", resources=resources)
    assert load_data("qmnist", "test", data_dir=tmp_path).hash == data.hash
    with pytest.raises(DataError, match=r"no\.gz: HTTP Error 404"):
        load_data("qmnist", "train", data_dir=tmp_path)


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, url = mirror
    write_mnist(served, digits(), digits(), packed=True)
    _offer(monkeypatch, "MNIST", mirrors=[f"{url}/"], resources=_resources(served))
    (tmp_path / "data").write_text("a file in the way")
    with pytest.raises(DataError, match=r"cannot be written to .*data/MNIST/raw"):
        load_data("mnist", data_dir=tmp_path / "data")


# --- torchvision beside a CPU-only torch ---


@pytest.mark.slow  # a Python of its own; others import it in theirs
def test_torchvision_imports_whatever_torch_it_stands_beside() -> None:
    program = (
        "from mnistgen.data import import_torchvision\n"
        "import torch\n"
        "tv = import_torchvision()\n"
        "assert import_torchvision() is tv\n"
        "assert tv.utils.make_grid(torch.zeros(4, 1, 8, 8)).shape == (3, 12, 42)\n"
        "assert tv.transforms.v2.RandomAffine(10)(torch.zeros(1, 28, 28)).shape == (1, 28, 28)\n"
        "assert tv.datasets.MNIST.resources\n"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_operators_are_declared_only_where_they_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    declared: list[bool] = []
    monkeypatch.setattr(torchvision_shim, "_declare_missing_operators", lambda: declared.append(True))
    monkeypatch.setattr(torchvision_shim, "_import", lambda: os)
    assert torchvision_shim.import_torchvision() is os
    assert not declared

    outcomes: list[Any] = [RuntimeError("operator torchvision::nms does not exist"), os]

    def imported() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(torchvision_shim, "_import", imported)
    assert torchvision_shim.import_torchvision() is os
    assert declared == [True]

    for error in (RuntimeError("compiled with different CUDA major versions"), ImportError("No module named PIL")):
        outcomes[:] = [error]
        with pytest.raises(MnistgenError, match=f"torchvision cannot be imported beside torch .*{error}"):
            torchvision_shim.import_torchvision()
    assert declared == [True]


def test_without_torchvision_the_error_is_about_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("No module named 'torchvision'")

    monkeypatch.setattr(torchvision_shim, "_import", fail)
    with pytest.raises(DataError, match=r"MNIST is not in .* cannot be downloaded: torchvision cannot .*--data-dir"):
        load_data("mnist", data_dir=tmp_path)


# --- Fuzzing: whatever the bytes, a reader returns a valid dataset or raises DataError ---
#
# MNISTGEN_FUZZ is the number of examples for each reader:
#   MNISTGEN_FUZZ=10000 pytest tests/test_data.py -k fuzz --timeout 7200

fuzz = settings(
    max_examples=int(os.environ.get("MNISTGEN_FUZZ", "40")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "cut", "repeat"]),
        st.one_of(st.integers(0, 40), st.integers(0, 2**16)),
        st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])),
    ),
    max_size=6,
)


def mutated(content: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, value in changes:
        place %= len(content) + 1
        if kind == "set":
            content = content[:place] + value + content[place + len(value) :]
        elif kind == "insert":
            content = content[:place] + value + content[place:]
        elif kind == "delete":
            content = content[:place] + content[place + len(value) :]
        elif kind == "cut":
            content = content[:place]
        else:
            content = content[:place] + content[place : place + 200] * len(value) + content[place:]
    return content


def survives(source: Path, resize: bool, **how: bool) -> None:
    """Dataset checks itself; anything but it and DataError is a failure."""
    try:
        data = load_data(source, resize=resize, **how)
    except DataError:
        return
    assert len(data) > 0
    assert data.images.shape[1:] == (1, 28, 28)
    assert len(data.hash) == 16


sizes = st.one_of(st.sampled_from([0, 1, 2, 28, 2**31, 2**32 - 1]), st.integers(0, 40), st.integers(0, 2**32 - 1))


@st.composite
def idx_files(draw: st.DrawFn) -> bytes:
    how = draw(st.integers(0, 4))
    if how == 0:
        return draw(st.binary(max_size=100))
    if how == 1:
        return mutated(draw(st.sampled_from([IMAGES, LABELS])), draw(edits))
    if how == 2:
        plain = mutated(draw(st.sampled_from([IMAGES, LABELS])), draw(edits))
        return mutated(gzip.compress(plain, 1), draw(edits))
    shape = draw(st.lists(sizes, max_size=5))
    code = draw(st.sampled_from([8, 9, 11, 12, 13, 14, 0, 255]))
    if how == 4:  # a header that is true
        shape = [3, *(1 + size % 30 for size in shape[:3])]
        width = {9: 1, 11: 2, 12: 4, 13: 4, 14: 8}.get(code, 1)
        header = struct.pack(f">4B{len(shape)}I", 0, 0, code, len(shape), *shape)
        content = draw(st.one_of(st.just(b"\0"), st.binary(min_size=1, max_size=20)))
        return header + (content * (math.prod(shape) * width))[: math.prod(shape) * width]
    header = struct.pack(f">4B{len(shape)}I", 0, 0, code, len(shape), *shape)
    return header + draw(st.binary(max_size=20)) * draw(st.integers(0, 300))


@fuzz
@given(images=idx_files(), labels=idx_files(), one=st.sampled_from(["images", "labels", "both"]), resize=st.booleans())
def test_fuzz_idx(tmp_path: Path, images: bytes, labels: bytes, one: str, resize: bool) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(IMAGES if one == "labels" else images)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(LABELS if one == "images" else labels)
    survives(tmp_path, resize)


CSV = "\n".join([HEADER, *(",".join(map(str, row)) for row in rows(digits(3)))]).encode()
fields = st.one_of(
    st.integers(-2, 1100).map(str),
    st.sampled_from(["", "label", "pixel0", '"1"', " 7 ", "1e3", "5.0", "nan", "9" * 30, "1_0", "٣", "\0", "\r"]),
    st.text(max_size=4),
)


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    how = draw(st.integers(0, 3))
    if how == 0:
        return draw(st.binary(max_size=200))
    if how == 1:
        return mutated(CSV, draw(edits))
    width = draw(st.sampled_from([2, 5, 785]))
    lines = [["1"] * width for _ in range(draw(st.integers(1, 4)))]
    if how == 2 or width == 785:
        for place, value in draw(st.lists(st.tuples(st.integers(0, 10**4), fields), max_size=5)):
            lines[place % len(lines)][place % width] = value
    else:
        lines = [draw(st.lists(fields, min_size=width, max_size=width)) for _ in lines]
    header = draw(st.sampled_from(["", HEADER + "\n", "label,a,b,c,d\n", "label,pixel0\n"]))
    return (header + draw(st.sampled_from(["\n", "\r\n"])).join(map(",".join, lines))).encode("utf-8", "surrogatepass")


@fuzz
@given(content=csv_files(), resize=st.booleans())
def test_fuzz_csv(tmp_path: Path, content: bytes, resize: bool) -> None:
    (tmp_path / "d.csv").write_bytes(content)
    survives(tmp_path / "d.csv", resize)


def _saved(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


NPY = {
    "images": _saved(np.zeros((2, 28, 28), np.uint8)),
    "labels": _saved(np.array([0, 1])),
    "num_classes": _saved(np.array(2)),
    "class_names": _saved(np.array(["a", "b"])),
}
descrs = st.one_of(
    st.sampled_from(
        ["|u1", "<i8", ">i4", "<f4", "<f2", "<f8", "|b1", "<U3", "|O", "<c8", "<M8[s]", "<f1", "<U0", "|S4"]
    ),
    st.text(max_size=6),
)


@st.composite
def npz_files(draw: st.DrawFn) -> bytes:
    how = draw(st.integers(0, 5))
    if how == 0:
        return draw(st.binary(max_size=200))
    members = dict(NPY)
    compression = draw(st.sampled_from([*[zipfile.ZIP_STORED] * 4, *[zipfile.ZIP_DEFLATED] * 4, zipfile.ZIP_BZIP2]))
    if how == 1:
        return mutated(archive(members, compression), draw(edits))
    for name in draw(st.lists(st.sampled_from(sorted(NPY)), min_size=1, max_size=2)):
        if how == 2:
            members[name] = mutated(members[name], draw(edits))
        else:
            shape = tuple(draw(st.lists(st.one_of(sizes, st.integers(0, 2**70)), max_size=5)))
            content = draw(st.binary(max_size=20)) * draw(st.integers(0, 300))
            if how == 3:
                shape = tuple(size % 30 for size in shape)
                content = (content or b"\1") * 25_000
                content = content[: math.prod(shape) * draw(st.sampled_from([0, 1, 2, 4, 8, 8]))][:25_000]
            header = npy(draw(descrs), shape, b"", draw(st.booleans()))
            members[name] = mutated(header, draw(edits) if draw(st.booleans()) else []) + content
    return archive(members, compression)


@fuzz
@given(content=npz_files(), resize=st.booleans(), stretch=st.booleans(), invert=st.booleans())
def test_fuzz_npz(tmp_path: Path, content: bytes, resize: bool, stretch: bool, invert: bool) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    survives(tmp_path / "d.npz", resize, stretch=stretch, invert=invert)


@fuzz
@given(changes=edits, name=st.sampled_from(sorted(NPY)), header=st.binary(max_size=300), whole=st.booleans())
def test_fuzz_npy(tmp_path: Path, changes: list[tuple[str, int, bytes]], name: str, header: bytes, whole: bool) -> None:
    start = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    (tmp_path / "d.npy").write_bytes(mutated(NPY[name] if whole else start, changes))
    survives(tmp_path / "d.npy", True)


@fuzz
@given(changes=edits, lists=st.booleans())
def test_fuzz_parquet(tmp_path: Path, changes: list[tuple[str, int, bytes]], lists: bool) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = boxes().reshape(3, 784).tolist() if lists else PICTURES[:3]
    file = io.BytesIO()
    parquet.write_table(arrow.table({"image": images, "label": [0, 1, 2]}), file, compression="NONE")
    (tmp_path / "d.parquet").write_bytes(mutated(file.getvalue(), changes))
    survives(tmp_path / "d.parquet", False)


def _pictures() -> list[bytes]:
    found = []
    for mode in ("L", "RGB", "RGBA", "P", "1", "I;16", "LA"):
        for kind in ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF"):
            file = io.BytesIO()
            try:
                Image.effect_noise((28, 28), 50).convert(mode if mode != "I;16" else "I").convert(mode).save(file, kind)
            except (OSError, ValueError):  # this kind of file has no such mode
                continue
            found.append(file.getvalue())
    return found


PICTURES = _pictures()


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    how = draw(st.integers(0, 2))
    if how == 0:
        return draw(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"P5 ", b"\xff\xd8"])) + draw(
            st.binary(max_size=200)
        )
    if how == 1:
        return mutated(draw(st.sampled_from(PICTURES)), draw(edits))
    width, height = draw(sizes), draw(sizes)
    pixels = zlib.compress(draw(st.binary(max_size=30)) * draw(st.integers(0, 100)), 1)
    kinds = [(8, 0), (16, 0), (1, 0), (8, 2), (16, 2), (8, 4), (8, 6), (8, 3), (4, 3)]
    depth, colour = draw(st.one_of(st.sampled_from(kinds), st.tuples(st.integers(0, 17), st.integers(0, 7))))
    return png(width, height, mutated(pixels, draw(edits)), depth, colour)


@fuzz
@given(content=pictures(), resize=st.booleans(), photo=st.booleans(), name=st.sampled_from(["a.png", "a.JPG", "a.tga"]))
def test_fuzz_pictures(tmp_path: Path, content: bytes, resize: bool, photo: bool, name: str) -> None:
    folder = tmp_path / "0"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_bytes(content)
    survives(tmp_path, resize, photographs=photo)
