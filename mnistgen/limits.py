"""Limits: seeds in one range, and work that has to fit into the memory and onto the disk there is."""

import operator
import os
import shutil
from pathlib import Path
from typing import Any

from mnistgen.errors import UsageError

LARGEST_OPTION = 100_000  # steps, say, of a sampler: more would take days, and memory for as many times
LARGEST_SEED = 2**63 - 1  # what every generator of random numbers in use takes, and an int64


def checked_seed(seed: Any, name: str = "seed") -> int:
    """The seed as an int. Raises `UsageError` where it is none, or outside 0 to `LARGEST_SEED`."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise UsageError(f"{name} is {seed!r}; a seed is an integer from 0 to {LARGEST_SEED}.") from None
    if not 0 <= number <= LARGEST_SEED:
        raise UsageError(f"{name} is {number}; it must be from 0 to {LARGEST_SEED}.")
    return number


def require_memory(needed: float, what: str, free: int | None = None) -> None:
    """Raise `UsageError` where `needed` bytes are more than the memory that is free; `what` begins the sentence."""
    free = free_memory() if free is None else free
    if free is not None and needed > free:
        raise UsageError(f"{what} would take about {size(needed)} of memory, and {size(free)} are free here.")


def require_disk(needed: float, folder: Path, what: str) -> None:
    """Raise `UsageError` where the disk that `folder` is on, or will be, has fewer than `needed` bytes free."""
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), None)
    try:
        free = shutil.disk_usage(there or ".").free
    except OSError:  # it will be said where it is written
        return
    if needed > free:
        raise UsageError(f"{what} would take about {size(needed)} on disk, and {size(free)} are free there.")


def free_memory() -> int | None:
    """Bytes that can be had without swapping, at most what a container is allowed; None where nobody says."""
    known = [room for room in (_free_on_machine(), _allowed_in_container()) if room is not None]
    return min(known, default=None)


def _free_on_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:  # all there is, where nobody says what is free
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _allowed_in_container() -> int | None:
    """The limit of a cgroup, of version 2 or 1."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text("ascii"))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None


def size(number: float) -> str:
    """`2147483648` -> `2.1 GB`."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
