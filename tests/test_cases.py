"""Data as people have them: each is read right, refused in a sentence, or read with a line that says what was done."""

import functools
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from command import mnistgen
from PIL import Image

from mnistgen.cli import main
from mnistgen.data import Dataset, available_splits, load_data, photograph
from mnistgen.errors import DataError, UsageError

N = 40
Array = np.ndarray[Any, np.dtype[Any]]


@functools.cache
def real() -> tuple[Array, Array]:
    """(n, 28, 28) uint8 and (n,) uint8: MNIST's test images where they are on disk, else the synthetic digits."""
    try:
        data = load_data("mnist", "test", download=False)
    except DataError:
        data = load_data("digits", "test")
    return data.images[:400, 0].numpy(), data.y[:400].numpy().astype(np.uint8)


@pytest.fixture
def x() -> Array:
    return real()[0][:N]


@pytest.fixture
def y() -> Array:
    return real()[1][:N]


def said(data: Dataset) -> list[str]:
    """The notes but that on classes without images: there are few images here."""
    return [note for note in data.notes if "classes have no images" not in note]


def npz(folder: Path, **arrays: Array) -> Path:
    np.savez(folder / "d.npz", **arrays)
    return folder / "d.npz"


def csv(folder: Path, table: Array, header: str = "") -> Path:
    np.savetxt(folder / "d.csv", table, "%g", ",", header=header, comments="")
    return folder / "d.csv"


def pictures(
    folder: Path,
    x: Array,
    y: Array,
    picture: Callable[[Array], Image.Image] = Image.fromarray,
    ext: str = "png",
    **how: Any,
) -> Path:
    """A folder a class; how a picture is made and saved is the caller's."""
    for k, (image, label) in enumerate(zip(x, y, strict=True)):
        (folder / "p" / str(label)).mkdir(parents=True, exist_ok=True)
        picture(image).save(folder / "p" / str(label) / f"{k:04}.{ext}", **how)
    return folder / "p"


SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6


def on_transparency(image: Array, colour: int = 0) -> Image.Image:
    rgba = np.full((28, 28, 4), colour, np.uint8)
    rgba[..., 3] = image
    return Image.fromarray(rgba, "RGBA")


def on_paper(image: Array) -> Image.Image:
    """Ink on unevenly lit paper with noise, the telephone held sideways."""
    rng = np.random.default_rng(0)
    page = np.linspace(150, 240, 300)[None] * np.linspace(0.85, 1, 400)[:, None]
    ink = np.asarray(Image.fromarray(image).resize((168, 168), Image.Resampling.BICUBIC), np.float32) / 255
    page[110:278, 60:228] *= 1 - 0.75 * ink
    page = (page + rng.normal(0, 4, page.shape)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(page).rotate(90, expand=True).convert("RGB")


class Read(NamedTuple):
    """A case that is read: what is written, with which flags, what comes of it, and what is said."""

    write: Callable[[Path, Array, Array], Path]
    says: str = ""  # a part of the notes; none at all where it is empty
    how: dict[str, bool] = {}  # noqa: RUF012
    exact: bool = True  # else the images are the same within a few grey levels
    labelled: bool = True


def floats(x: Array) -> Array:
    return (x / 255).astype(np.float32)


READ = {
    "floats-a-hair-over-one": Read(
        lambda f, x, y: npz(f, images=floats(x) * np.float32(1.0000001), labels=y),
        "float32 from 0 to 1.00000012 clipped to [0, 1] and scaled to 0..255",
    ),
    "floats": Read(lambda f, x, y: npz(f, images=floats(x), labels=y), "float32 from 0 to 1 taken as [0, 1]"),
    "floats-from-minus-one": Read(lambda f, x, y: npz(f, x=x / 127.5 - 1, y=y), "taken as [-1, 1]"),
    "floats-to-255": Read(lambda f, x, y: npz(f, x=x.astype(np.float64), y=y), "taken as 0..255"),
    "floats-in-a-table": Read(
        lambda f, x, y: csv(f, np.column_stack([y, floats(x).reshape(len(x), -1)]), "label," + ",".join(PIXELS)),
        "float32 from 0 to 1 taken as [0, 1]",
    ),
    "standardised-stretched": Read(
        lambda f, x, y: npz(f, images=(floats(x) - 0.1307) / 0.3081, labels=y), "stretched to 0..255", {"stretch": True}
    ),
    "black-on-white-inverted": Read(lambda f, x, y: npz(f, images=255 - x, labels=y), "inverted", {"invert": True}),
    "int32-labels": Read(lambda f, x, y: npz(f, images=x, labels=y.astype(np.int32))),
    "float-labels": Read(lambda f, x, y: npz(f, images=x, labels=y.astype(np.float32)[:, None])),
    "arrays-without-names": Read(lambda f, x, y: npz(f, arr_0=x, arr_1=y)),
    "an-array-that-is-left-out": Read(lambda f, x, y: npz(f, images=x, labels=y, extra=x), "left out: array 'extra'"),
    "lying-on-their-side": Read(
        lambda f, x, y: pictures(f, x, y, lambda d: Image.fromarray(d).rotate(90), "jpg", exif=SIDEWAYS, quality=95),
        f"{N} of {N} pictures turned upright, as their EXIF says",
        exact=False,
    ),
    "ink-on-transparency": Read(
        lambda f, x, y: pictures(f, x, y, on_transparency), "dark ink on transparency drawn as light ink on black"
    ),
    "light-ink-on-transparency": Read(
        lambda f, x, y: pictures(f, x, y, lambda d: on_transparency(d, 255)), "with transparency laid over black"
    ),
    "sixteen-bits": Read(
        lambda f, x, y: pictures(f, x, y, lambda d: Image.fromarray(d.astype(np.uint16) * 257)),
        "uint16 from 0 to 65535 scaled",
    ),
    "palette": Read(lambda f, x, y: pictures(f, x, y, lambda d: Image.fromarray(d).convert("P"))),
    "webp": Read(lambda f, x, y: pictures(f, x, y, ext="webp", lossless=True)),
    "png-and-tiff": Read(
        lambda f, x, y: (pictures(f, x[::2], y[::2]), pictures(f, x[1::2], y[1::2], ext="tiff"))[0], exact=False
    ),
    "label-last-no-header": Read(
        lambda f, x, y: csv(f, np.column_stack([x.reshape(len(x), -1), y])), "the last column is taken as the label"
    ),
    "label-last-of-a-table-of-openml": Read(
        lambda f, x, y: csv(
            f, np.column_stack([x.reshape(len(x), -1), y]), ",".join(f"pixel{k}" for k in range(1, 785)) + ",class"
        )
    ),
    "a-table-of-emnist": Read(
        lambda f, x, y: (
            csv(f, np.column_stack([y, x.transpose(0, 2, 1).reshape(len(x), -1)])).rename(f / EMNIST),
            f / EMNIST,
        )[1],
        "turned upright, because the files of EMNIST digits hold images on their side",
    ),
    "semicolons": Read(
        lambda f, x, y: write(
            f / "d.csv", csv(f, np.column_stack([y, x.reshape(len(x), -1)])).read_text().replace(",", ";")
        )
    ),
    "unlabelled-table": Read(
        lambda f, x, y: csv(f, x.reshape(len(x), -1), ",".join(PIXELS)), "there is no column of labels", labelled=False
    ),
    "unlabelled-table-without-header": Read(
        lambda f, x, y: csv(f, x.reshape(len(x), -1)), "784 columns without a header", labelled=False
    ),
    "no-labels": Read(lambda f, x, y: npz(f, images=x), labelled=False),
    "alone": Read(lambda f, x, y: (np.save(f / "alone.npy", x), f / "alone.npy")[1], labelled=False),
    "beside-its-labels": Read(
        lambda f, x, y: (np.save(f / "x_train.npy", x), np.save(f / "y_train.npy", y), f / "x_train.npy")[2],
        "the labels are those of",
    ),
    "hub": Read(lambda f, x, y: hub(f / "hub.parquet", x, y)),
    "hub-of-lists": Read(lambda f, x, y: hub(f / "hub.parquet", x, y, lists=True)),
}
EMNIST = "emnist-digits-train.csv"
PIXELS = [f"pixel{k}" for k in range(784)]


def hub(path: Path, x: Array, y: Array, *, lists: bool = False) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def png(image: Array) -> dict[str, Any]:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    images = x.reshape(len(x), -1).tolist() if lists else [png(image) for image in x]
    parquet.write_table(arrow.table({"image": images, "label": y.astype(np.int64)}), path)
    return path


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_read_right_and_what_was_done_is_said(name: str, tmp_path: Path, x: Array, y: Array) -> None:
    case = READ[name]
    data = load_data(case.write(tmp_path, x, y), **case.how)
    if name == "png-and-tiff":  # in the order of their names, which begin anew
        assert sorted(image.tobytes() for image in data.images.numpy()) == sorted(image.tobytes() for image in x)
    elif case.exact:
        assert np.array_equal(data.images[:, 0].numpy(), x)
    else:
        assert np.abs(data.images[:, 0].numpy().astype(int) - x).mean() < 3
    assert data.labels is None or name == "png-and-tiff" or np.array_equal(data.labels.numpy(), y)
    assert (data.labels is not None) == case.labelled
    notes = said(data)
    assert (case.says in " ".join(notes)) if case.says else not notes


REFUSED: dict[str, tuple[Callable[[Path, Array, Array], Path], str]] = {
    "zeros-and-ones": (
        lambda f, x, y: npz(f, images=(x > 127).astype(np.uint8), labels=y),
        r"from 0 to 1 \(uint8\), which is all but black .*; add --stretch",
    ),
    "standardised": (
        lambda f, x, y: npz(f, images=(floats(x) - 0.1307) / 0.3081, labels=y),
        r"go from -0.42\d* to 2.82\d*; they must be in 0..255, \[0, 1\] or \[-1, 1\]. Add --stretch",
    ),
    "centred": (lambda f, x, y: npz(f, images=floats(x) - 0.5, labels=y), "from -0.5 to 0.5; they must be"),
    "of-sixteen-levels": (lambda f, x, y: npz(f, images=(x // 16) * 1.0, labels=y), "all but black .*add --stretch"),
    "not-finite": (lambda f, x, y: npz(f, images=np.where(x > 0, np.nan, 0), labels=y), "they must be finite"),
    "constant": (lambda f, x, y: npz(f, images=x * 0 + 7, labels=y), "every pixel is 7, so the images show nothing"),
    "pointer": (
        lambda f, x, y: write(
            f / "pointer-idx3-ubyte",
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 47040016\n",
        ),
        "is a Git LFS pointer, which stands for a file of 47,040,016 bytes .*git lfs pull",
    ),
    "lines-of-pandas": (
        lambda f, x, y: csv(f, np.column_stack([y * 0, y, x.reshape(len(x), -1)]), ",label," + ",".join(PIXELS)),
        "the first column has no name.*index=False",
    ),
    "pointer-called-csv": (
        lambda f, x, y: write(f / "d.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "is a Git LFS pointer",
    ),
    "one-and-01": (
        lambda f, x, y: (pictures(f, x[:1], y[:1] * 0 + 1), pictures(f, x[1:2], np.array(["01"])))[0],
        "the folders '01' and '1' are of the same class, 1",
    ),
    "label-nowhere": (
        lambda f, x, y: csv(f, np.random.default_rng(0).integers(100, 256, (9, 785))),
        "the labels cannot be told: neither the first column",
    ),
    "a-grid": (
        lambda f, x, y: (Image.fromarray(np.hstack(x[:3])).save(f / "grid.png"), f / "grid.png")[1],
        "is a single picture, .*--photographs",
    ),
    "large": (lambda f, x, y: npz(f, images=x.repeat(2, 1).repeat(2, 2), labels=y), "56x56 .* Add --resize"),
    "labels-of-no-name": (lambda f, x, y: npz(f, a=x, b=y), "has the arrays 'a', 'b'; it needs 'images'"),
    "labels-without-images": (
        lambda f, x, y: npz(f, labels=y),
        "has the array 'labels' but no 'images'. There is no other array",
    ),
    "no-parquet": (lambda f, x, y: write(f / "d.parquet", "PAR1 is not all"), "d.parquet cannot be read as Parquet"),
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_right_is_refused_with_what_was_found(
    name: str, tmp_path: Path, x: Array, y: Array
) -> None:
    case, says = REFUSED[name]
    with pytest.raises(DataError, match=says):
        load_data(case(tmp_path, x, y))


def test_a_bright_ground_is_said(tmp_path: Path, x: Array, y: Array) -> None:
    (note,) = said(load_data(npz(tmp_path, images=255 - x, labels=y)))
    assert "the ground is bright (at the edge of the images the median is 255 of 255)" in note
    assert "--invert" in note
    (_, note) = said(load_data(npz(tmp_path, images=x, labels=y), invert=True))
    assert "leave out --invert" in note
    assert Dataset.of(255 - x).notes[0].startswith("images: images: the ground is bright")


def test_zeros_and_ones_are_stretched_where_that_is_asked_for(tmp_path: Path, x: Array, y: Array) -> None:
    data = load_data(npz(tmp_path, images=(x > 127).astype(np.uint8), labels=y), stretch=True)
    assert np.array_equal(data.images[:, 0].numpy(), (x > 127) * 255)
    assert "uint8 from 0 to 1 stretched to 0..255" in data.notes[0]


def test_parts_are_found_by_their_usual_names_and_what_is_left_out_is_said(tmp_path: Path, x: Array, y: Array) -> None:
    for train, test, validation in (
        ("train", "test", "val"),
        ("training", "testing", "valid"),
        ("Train", "Test", "dev"),
    ):
        top = tmp_path / train
        for part, several in ((train, slice(0, 20)), (test, slice(20, 30)), (validation, slice(30, 40))):
            pictures(top / part, x[several], y[several])
            (top / part / "p").rename(top / part / "q")
            for folder in (top / part / "q").iterdir():
                folder.rename(top / part / folder.name)
            (top / part / "q").rmdir()
        (top / "extra").mkdir()
        assert available_splits(top) == ("train", "validation", "test")
        assert [len(load_data(top, part)) for part in ("train", "validation", "test", "all")] == [20, 10, 10, 40]
        notes = " ".join(load_data(top).notes)
        assert "its validation part is left out" in notes
        assert "left out, beside the folders of the parts: 'extra'" in notes
    parts = {"train": slice(0, 20), "val": slice(20, 30), "test": slice(30, 40)}
    arrays = {f"{part}_images": x[several] for part, several in parts.items()}
    arrays |= {f"{part}_labels": y[several, None] for part, several in parts.items()}
    path = npz(tmp_path, **arrays)
    assert [len(load_data(path, part)) for part in ("train", "validation", "test")] == [20, 10, 10]
    assert "its validation part is left out" in " ".join(load_data(path).notes)


def test_what_is_no_picture_is_counted(tmp_path: Path, x: Array, y: Array) -> None:
    folder = pictures(tmp_path, x, y)
    write(folder / str(y[0]) / "notes.txt", "hello")
    write(folder / "readme.heic", "hello")
    assert any(
        f"left out: 2 files that are no pictures ('readme.heic', '{y[0]}/notes.txt')" in n
        for n in load_data(folder).notes
    )


def test_classes_without_images_are_said(tmp_path: Path, x: Array) -> None:
    data = load_data(npz(tmp_path, images=x, labels=np.arange(N) % 2 * 5 + 3))
    assert (data.num_classes, data.classes) == (9, (3, 8))
    assert "7 of 9 classes have no images: 0, 1, 2, 4, 5, 6, 7." in data.notes[-1]


def test_a_hub_s_folder_has_its_parts_and_class_names(tmp_path: Path, x: Array, y: Array) -> None:
    hub(tmp_path / "train-00000-of-00002.parquet", x[:20], y[:20])
    hub(tmp_path / "train-00001-of-00002.parquet", x[20:30], y[20:30])
    hub(tmp_path / "test-00000-of-00001.parquet", x[30:], y[30:])
    assert np.array_equal(load_data(tmp_path).images[:, 0].numpy(), x[:30])
    assert np.array_equal(load_data(tmp_path, "test").y.numpy(), y[30:])


def test_a_hub_s_class_names_are_kept_and_ragged_rows_refused(tmp_path: Path, x: Array, y: Array) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"image": x.reshape(N, -1).tolist(), "label": (y % 2).astype(np.int64)})
    about = {"info": {"features": {"label": {"names": ["even", "odd"], "_type": "ClassLabel"}}}}
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), tmp_path / "d.parquet")
    assert load_data(tmp_path / "d.parquet").class_names == ("even", "odd")
    parquet.write_table(arrow.table({"image": [[1] * 784, [2] * 9]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d.parquet, row 1 holds \(9,\) uint8, and the first \(784,\)"):
        load_data(tmp_path / "d.parquet")


def test_without_pyarrow_a_parquet_file_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow, which is not installed: pip install 'mnistgen\[parquet\]'"):
        load_data(write(tmp_path / "d.parquet", "PAR1"))


# --- Photographs ---


def test_a_photograph_comes_to_what_mnist_has(tmp_path: Path, x: Array, y: Array) -> None:
    folder = pictures(tmp_path, x[:12], y[:12], on_paper, "jpg", exif=SIDEWAYS)
    with pytest.raises(DataError, match="the images are 400x300 RGB"):
        load_data(folder)
    data = load_data(folder, photographs=True)
    error = (data.images[:, 0].float() - torch.from_numpy(x[:12]).float()).abs().mean()
    assert error < 18  # of 255, where another digit of the same class differs by 35
    mass = data.images[:, 0].double()
    places = torch.arange(28.0, dtype=torch.float64)
    for axis in (1, 2):
        centre = (mass.sum(3 - axis) * places).sum(1) / mass.sum((1, 2))
        assert (centre - 14).abs().max() <= 0.51
    for image in mass:
        rows, columns = image.amax(1).nonzero(), image.amax(0).nonzero()
        assert max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 == 20
    assert f"{12} of {12} pictures brought from a photograph" in data.notes[0]


def test_chalk_on_a_board_comes_to_the_same_as_ink_on_paper(x: Array) -> None:
    page = np.asarray(on_paper(x[0]).convert("L"))
    for steps in (photograph(page, "ink"), photograph(255 - page, "chalk")):
        assert [step.dtype for step in steps] == [torch.uint8] * 4
        assert tuple(steps.result.shape) == (28, 28)
    assert (photograph(page, "ink").result.int() - photograph(255 - page, "chalk").result.int()).abs().max() <= 1


def test_a_photograph_without_ink_is_refused() -> None:
    with pytest.raises(DataError, match=r"blank.jpg: no ink is found"):
        photograph(np.random.default_rng(0).normal(200, 2, (300, 200)), "blank.jpg")


def test_arrays_are_no_photographs(tmp_path: Path, x: Array) -> None:
    with pytest.raises(UsageError, match="holds no files of pictures, so there are no photographs"):
        load_data(npz(tmp_path, images=x), photographs=True)


def test_the_steps_of_a_photograph_are_shown(
    tmp_path: Path, x: Array, y: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    on_paper(x[0]).save(tmp_path / "photograph.jpg", exif=SIDEWAYS)
    assert main(["data", str(tmp_path / "photograph.jpg"), "--out", str(tmp_path / "steps.png")]) == 0
    shown = capsys.readouterr()
    assert "1 of 1 pictures brought from a photograph to MNIST's format" in shown.err
    with Image.open(tmp_path / "steps.png") as picture:
        assert picture.width > 3 * picture.height
    folder = pictures(tmp_path, x[:3], y[:3], on_paper, "jpg", exif=SIDEWAYS)
    assert main(["data", str(folder), "--photographs", "--out", str(tmp_path / "several.png")]) == 0
    with Image.open(tmp_path / "steps.png") as one, Image.open(tmp_path / "several.png") as several:
        assert several.width == one.width
        assert several.height > 2.5 * one.height


# --- Commands ---


def test_commands_say_what_was_done_once(tmp_path: Path, x: Array) -> None:
    source = str(npz(tmp_path, images=1 - floats(x), labels=np.arange(N) % 10))
    for command in (
        ["data", source, "--invert"],
        ["data", "export", source, "--invert", "--format", "npz", "--out", "e.npz"],
        ["train", "tiny", "--data", source, "--invert", "--steps", "1", "--quiet", "--out", "t"],
    ):
        shown = mnistgen(tmp_path, *command)
        done = "float32 from 0 to 1 taken as [0, 1] and scaled to 0..255; inverted."
        assert [line for line in shown.splitlines() if "note: " in line] == [f"note: {source}, array 'images': {done}"]
    assert np.array_equal(load_data(tmp_path / "e.npz").images[:, 0].numpy(), x)


def test_a_run_goes_on_with_data_read_as_it_began(tmp_path: Path, x: Array) -> None:
    source = str(npz(tmp_path, images=(x > 127).astype(np.uint8), labels=np.arange(N) % 10))
    train = ["train", "tiny", "--data", source, "--quiet", "--steps", "1"]
    assert "stretched to 0..255" in mnistgen(tmp_path, *train, "--stretch")
    assert mnistgen(tmp_path, *train, "--resume").count("stretched to 0..255") == 1


@pytest.mark.parametrize("name", ["zeros-and-ones", "standardised", "constant", "pointer", "one-and-01", "a-grid"])
@pytest.mark.parametrize("command", [["train", "vae", "--data"], ["score"]], ids=lambda command: command[0])
def test_commands_refuse_in_one_sentence(
    name: str,
    command: list[str],
    tmp_path: Path,
    x: Array,
    y: Array,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    case, says = REFUSED[name]
    source = case(tmp_path, x, y)
    before = sorted(tmp_path.rglob("*"))
    assert main([*command, str(source)]) == 1
    shown = capsys.readouterr().err
    assert re.search(says, shown)
    assert shown.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_data_refuses_what_it_cannot_show(
    tmp_path: Path, x: Array, y: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("standardised", "pointer", "label-nowhere"):
        case, says = REFUSED[name]
        assert main(["data", str(case(tmp_path, x, y))]) == 1
        assert re.search(says, capsys.readouterr().err)
