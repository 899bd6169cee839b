"""Whether files that go by a famous name hold what everybody means by it."""

import gzip
import hashlib
from pathlib import Path

from mnistgen import integrity
from mnistgen.data.dataset import Dataset
from mnistgen.data.families import Family
from mnistgen.errors import DataError


def require_known(data: Dataset, family: Family, *files: Path) -> Dataset:
    """`data`, a split read from `files`. Raises `DataError` that names the file where it is not what is known."""
    if family.hashes.get(data.split, data.hash) == data.hash:
        return data
    altered = [file for file in files if not is_known(file, family)] or list(files)
    raise DataError(
        f"{' and '.join(map(str, altered))}: not the {data.split} split of {family.title}, though called so: it was "
        f"altered, or is damaged. Remove it to have {family.title} downloaded again; to use it as it is, give its path "
        f"as the dataset: --data {files[0].parent}"
    )


def shipped(file: Path) -> Path:
    """`file`, which ships with mnistgen. Raises `DataError` where it is not as it shipped, and `OSError`."""
    try:
        integrity.check_shipped(file, file.read_bytes())
    except integrity.DamagedError as error:
        raise DataError(f"{file}: {error}; install mnistgen again.") from error
    return file


def is_known(file: Path, family: Family) -> bool:
    """Whether a file, plain or packed, holds what is known of one of its name."""
    content = file.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return family.sha256.get(file.name.removesuffix(".gz")) == hashlib.sha256(content).hexdigest()
