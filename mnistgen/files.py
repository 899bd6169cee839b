"""Files and folders that are either complete or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnistgen.errors import MnistgenError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    If the block raises, or the process dies inside it, `path` is as it was before. Raises `MnistgenError` that
    names `path` where the folder is not writable or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{path.suffix}", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes private files; a result is as readable as any other file the user writes.
        temporary.chmod(0o666 & ~_umask())
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise MnistgenError(f"{path}: cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, renamed to `path` on success; `path` must not exist, or be empty.

    Raises `MnistgenError` where `path` holds anything already, or cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise MnistgenError(f"{path}: exists already; give another path or remove it first.")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise MnistgenError(f"{path}: cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what `atomic_file` leaves in `folder` where the process was killed in the middle of a write."""
    for leftover in folder.glob(".*.tmp*"):
        if leftover.is_file():
            with suppress(OSError):  # it takes up space and does no other harm
                leftover.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
