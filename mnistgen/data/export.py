"""Writing a dataset in the formats that `load_data` reads; each comes back with the same hash, and is written whole."""

import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from mnistgen.data.convert import SIDE, Array
from mnistgen.data.dataset import Dataset
from mnistgen.errors import DataError, UsageError, suggestion
from mnistgen.files import atomic_file, atomic_folder

ROWS = 1000  # lines of CSV formatted at a time


def export_data(
    dataset: Dataset,
    path: Path,
    format: str,  # noqa: A002
    *,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write `dataset` to `path`: a file for npz and csv, a folder for png and idx.

    `provenance`, such as the command and the seed, goes into the array `provenance` of an NPZ file or the file
    provenance.json of a folder, as JSON; the layout of CSV has no place for it.

    Raises `UsageError` for a format that does not exist, `DataError` where the dataset does not fit the format,
    and `MnistgenError` where `path` cannot be written or is a folder that holds something.
    """
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}. {suggestion(format, FORMATS)}")
    if len(dataset) == 0:
        raise DataError(f"{dataset.name} holds no images; there is nothing to export.")
    if format in ("npz", "csv") and path.suffix.lower() != f".{format}":
        raise UsageError(f"{path}: a file in the format {format} is named with .{format} at the end.")
    FORMATS[format](dataset.to("cpu"), path, json.dumps(dict(provenance), indent=2) if provenance else "")


def _write_npz(dataset: Dataset, path: Path, provenance: str) -> None:
    arrays: dict[str, Array] = {
        "images": dataset.images.squeeze(1).numpy(),
    }
    if dataset.labels is not None:
        arrays |= {"labels": dataset.labels.numpy(), "num_classes": np.array(dataset.num_classes)}
    if dataset.class_names:
        arrays["class_names"] = np.array(dataset.class_names)
    if provenance:
        arrays["provenance"] = np.array(provenance)
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            # A fixed date, so that equal data make equal files.
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _write_csv(dataset: Dataset, path: Path, provenance: str) -> None:  # noqa: ARG001
    dataset.require_labels("in the layout of CSV")
    header = ",".join(["label", *(f"pixel{k}" for k in range(SIDE * SIDE))])
    words = np.array([str(value) for value in range(256)])
    with atomic_file(path) as temporary, temporary.open("w", encoding="ascii", newline="") as file:
        file.write(f"{header}\n")
        for start in range(0, len(dataset), ROWS):
            pixels = words[dataset.images[start : start + ROWS].flatten(1).numpy()]
            labels = dataset.y[start : start + ROWS].tolist()
            file.writelines(f"{label},{','.join(row)}\n" for label, row in zip(labels, pixels, strict=True))


def _write_png(dataset: Dataset, path: Path, provenance: str) -> None:
    """One folder a class, empty classes too, or one in all without labels; a picture's name is its place.

    labels.csv lists the pictures in order, for tools that do not take the class from the folder.
    """
    width = len(str(len(dataset) - 1))
    with atomic_folder(path) as temporary:
        _write_provenance(temporary, provenance)
        labels = None if dataset.labels is None else dataset.labels.tolist()
        for number in range(dataset.num_classes if labels is not None else 0):
            (temporary / str(number)).mkdir()
        names = [f"{place:0{width}}.png" for place in range(len(dataset))]
        if labels is not None:
            names = [f"{label}/{name}" for label, name in zip(labels, names, strict=True)]
        for name, image in zip(names, dataset.images.squeeze(1).numpy(), strict=True):
            Image.fromarray(image).save(temporary / name)
        if labels is not None:
            lines = [f"{name},{label}\n" for name, label in zip(names, labels, strict=True)]
            (temporary / "labels.csv").write_text("file,label\n" + "".join(lines), encoding="ascii")


def _write_idx(dataset: Dataset, path: Path, provenance: str) -> None:
    labels = dataset.require_labels("beside the images of IDX")
    if dataset.num_classes > 256:
        raise DataError(f"{dataset.name} has {dataset.num_classes} classes; the labels of IDX files are bytes.")
    n = len(dataset)
    with atomic_folder(path) as temporary:
        _write_provenance(temporary, provenance)
        with (temporary / "train-images-idx3-ubyte").open("wb") as file:
            file.write(struct.pack(">4B3I", 0, 0, 8, 3, n, SIDE, SIDE))
            file.write(dataset.images.contiguous().numpy().data)
        with (temporary / "train-labels-idx1-ubyte").open("wb") as file:
            file.write(struct.pack(">4BI", 0, 0, 8, 1, n))
            file.write(labels.numpy().astype(np.uint8).data)


def _write_provenance(folder: Path, provenance: str) -> None:
    if provenance:
        (folder / "provenance.json").write_text(f"{provenance}\n", encoding="utf-8")


FORMATS: dict[str, Callable[[Dataset, Path, str], None]] = {
    "npz": _write_npz,
    "png": _write_png,
    "csv": _write_csv,
    "idx": _write_idx,
}
