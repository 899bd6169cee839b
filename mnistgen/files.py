"""Files and folders that are either complete or not there.

What is being written has a temporary name, `.mnistgen-` and eight letters, and is locked by its writer. So what a
killed process leaves behind can be told from what a living one is at work on, and the next write in the same folder
removes it.
"""

import errno
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mnistgen.errors import MnistgenError

if sys.platform != "win32":
    import fcntl

PREFIX = ".mnistgen-"
_TEMPORARY = re.compile(rf"{re.escape(PREFIX)}[a-z0-9_]{{8}}\.tmp(\.\w+)?")
LONGEST_SUFFIX = 16  # of a temporary name: libraries go by the suffix of a file, and a name has 255 bytes


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is flushed to disk and renamed to `path`, in the mode of what was there.

    If the block raises, or the process dies inside it, `path` is as it was before. A link stays, and the file that it
    names is replaced; a pipe or a device such as /dev/stdout is written to. Raises `MnistgenError` that names `path`
    where it is a folder, the folder is not writable or the disk is full.
    """
    with _naming(path):
        there = _status(path)
        stream = there is not None and _is_stream(there)
        if there is not None and not stream and not stat.S_ISREG(there.st_mode):
            what = "a folder" if stat.S_ISDIR(there.st_mode) else "no file, and no pipe either"
            raise MnistgenError(f"{path}: cannot be written, because it is {what}. Give the path of a file.")
        target = Path(os.path.realpath(path))
        if there is not None and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        folder = Path(tempfile.gettempdir()) if stream else target.parent
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_file(folder, path.suffix) as temporary:
            yield temporary
            if there is not None and stream:
                with temporary.open("rb") as source, _open_stream(path, there) as sink:
                    shutil.copyfileobj(source, sink)
            else:
                _move(temporary, target, there, 0o666)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, renamed to `path` on success; `path` must not exist, or be empty.

    Raises `MnistgenError` where `path` holds anything already, or cannot be written.
    """
    with _naming(path):
        there = _status(path)
        if there is not None and (not path.is_dir() or any(path.iterdir())):
            raise MnistgenError(f"{path}: exists already; give another path or remove it first.")
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target.parent) as temporary:
            yield temporary
            _move(temporary, target, there, 0o777)


@contextmanager
def temporary_file(folder: Path, suffix: str = "") -> Iterator[Path]:
    """Yield an empty file in `folder`, which is removed afterwards unless it has been renamed."""

    def make() -> str:
        end = suffix if re.fullmatch(r"\.\w+", suffix) and len(suffix) <= LONGEST_SUFFIX else ""
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=f".tmp{end}", dir=folder)
        os.close(handle)
        return name

    with _temporary(folder, make) as path:
        yield path


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder in `folder`, which is removed afterwards unless it has been renamed."""
    with _temporary(folder, lambda: tempfile.mkdtemp(prefix=PREFIX, suffix=".tmp", dir=folder)) as path:
        yield path


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Yield whether the lock `path`, a file that is made and removed again, is this process's until the block ends.

    The system releases it when the process dies. Processes of several machines share a lock in a folder they share.
    """
    from filelock import FileLock, Timeout  # takes long to import

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        raise MnistgenError(f"{path}: cannot be locked: {error.strerror or error}.") from error
    try:
        yield True
    finally:
        with suppress(OSError):  # another process may have opened it already, and is to look again at what it guards
            path.unlink(missing_ok=True)
        lock.release()


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes left in `folder` in the middle of a write: ours by its name, dead by its lock."""
    with suppress(OSError):  # what is left takes up space and does no other harm
        for path in [Path(entry) for entry in os.scandir(folder) if _TEMPORARY.fullmatch(entry.name)]:
            with suppress(OSError):
                lock = _lock(path)
                if lock is not None:
                    try:
                        _remove(path)
                    finally:
                        os.close(lock)


@contextmanager
def _temporary(folder: Path, make: Callable[[], str]) -> Iterator[Path]:
    clear_leftovers(folder)
    while True:
        path = Path(make())
        # Before it is locked, another process may have taken it for a dead one's.
        with suppress(BlockingIOError, FileNotFoundError):
            lock = _lock(path)
            if path.exists():
                break
    try:
        yield path
    finally:
        with suppress(OSError):
            _remove(path)
        if lock is not None:
            os.close(lock)


def _lock(path: Path) -> int | None:
    """Lock a temporary until the descriptor that is returned is closed, or the process ends, however it ends.

    None where there are no such locks. Raises `BlockingIOError` where another process, or thread, has locked it.
    """
    if sys.platform == "win32":
        return None
    status = path.lstat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return None
    # A network's file system wants to see that one may write what one locks.
    access = os.O_RDWR if stat.S_ISREG(status.st_mode) and os.access(path, os.W_OK) else os.O_RDONLY
    descriptor = os.open(path, access | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say of what goes wrong with the file system that `path` cannot be written."""
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:  # the latter: a character that no file name can have
        reason = error.strerror if isinstance(error, OSError) else None
        raise MnistgenError(f"{path}: cannot be written: {reason or error}.") from error


def _status(path: Path) -> os.stat_result | None:
    """The status of `path`, links followed; None where there is nothing."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _is_stream(there: os.stat_result) -> bool:
    """Whether it is written to rather than replaced: a pipe, a device, or the file that our output goes to."""
    return stat.S_ISCHR(there.st_mode) or stat.S_ISFIFO(there.st_mode) or _standard(there) is not None


def _standard(there: os.stat_result) -> int | None:
    """The descriptor of our own output where that is it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or no file at all
            if os.path.samestat(os.fstat(stream.fileno()), there):
                stream.flush()
                return stream.fileno()
    return None


def _open_stream(path: Path, there: os.stat_result) -> BinaryIO:
    # Our own output is not opened again: that would begin at the start of the file it goes to.
    own = _standard(there)
    return path.open("wb") if own is None else os.fdopen(os.dup(own), "wb")


def _move(temporary: Path, target: Path, there: os.stat_result | None, mode: int) -> None:
    """Rename, durably; with the mode and, where possible, the owner of what is replaced, else with the usual ones."""
    _flush(temporary)
    if there is None:
        temporary.chmod(mode & ~_umask())
    else:
        if sys.platform != "win32":
            with suppress(OSError):
                os.chown(temporary, there.st_uid, there.st_gid)
        temporary.chmod(stat.S_IMODE(there.st_mode))
    temporary.replace(target)
    _flush(target.parent)


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
