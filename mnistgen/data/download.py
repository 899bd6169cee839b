"""Downloads: torchvision says from where and with which checksum; a file is in its place only once it is whole."""

import gzip
import hashlib
import http.client
import lzma
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from mnistgen.data.families import Family
from mnistgen.data.known import is_known
from mnistgen.data.torchvision_shim import import_torchvision
from mnistgen.errors import DownloadError, MnistgenError
from mnistgen.files import temporary_folder
from mnistgen.text import printable

TIMEOUT = 30.0  # seconds without a byte before the next mirror is tried
LARGEST = {"EMNIST": 2**30}  # bytes of a file: that of EMNIST has 0.56 GB
LARGEST_ELSE = 2**26  # and the largest of the others 26 MB
SLOWEST = 50_000.0  # bytes a second, at which a file of that size would take the longest that is waited for it
BLOCK = 2**18
LONGEST_REASON = 200  # characters of what a server says


class Resource(NamedTuple):
    """A file to fetch."""

    urls: tuple[str, ...]  # the same file at each mirror
    md5: str

    @property
    def name(self) -> str:
        return self.urls[0].rsplit("/", 1)[-1]


def plain_or_packed(path: Path) -> Path | None:
    """`path`, or `path`.gz, whichever there is."""
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.exists():
            return candidate
    return None


def ways_to_provide(family: Family, folder: Path) -> str:
    """Advice for a user who has the files, or can get them elsewhere."""
    names = ", ".join(name for pair in family.files.values() for name in pair)
    return (
        f"Either put {names} (plain or .gz) in {folder}, or name the folder above {family.folder}/raw with --data-dir "
        "or MNISTGEN_DATA, or give the path of a file or folder instead of a name (IDX, CSV, NPZ, or images by class)."
    )


def download(family: Family, folder: Path, split: str) -> None:
    """Fetch what `split` needs into `folder`; whatever happens, `folder` then holds whole files only.

    Raises `DownloadError` that names each address tried with what was wrong there, and the other ways to provide the
    data.
    """
    try:
        resources = _resources(family, split)
    except MnistgenError as error:
        raise DownloadError(
            f"{family.title} is not in {folder}, and it cannot be downloaded: {error} {ways_to_provide(family, folder)}"
        ) from error
    base = next(parent for parent in folder.absolute().parents if parent.exists())  # the same disk as `folder`
    try:
        with temporary_folder(base) as temporary:
            fetched, unpacked = temporary / "fetched", temporary / "unpacked"
            fetched.mkdir()
            unpacked.mkdir()
            with _progress() as progress:
                for resource in resources:
                    if plain_or_packed(folder / Path(resource.name).stem) is None:
                        path = fetched / resource.name
                        _fetch(resource, path, progress, family, folder)
                        _unpack(path, unpacked)
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(unpacked.iterdir()):
                path.replace(folder / path.name)
    except OSError as error:
        raise DownloadError(
            f"{family.title} cannot be written to {folder}: {error.strerror or error}. "
            f"{ways_to_provide(family, folder)}"
        ) from error


def _resources(family: Family, split: str) -> list[Resource]:
    cls = getattr(import_torchvision().datasets, family.folder)
    if family.folder == "EMNIST":  # one archive holds all of its splits
        return [Resource((cls.url,), cls.md5)]
    if family.folder == "QMNIST":
        return [Resource((url,), md5) for url, md5 in cls.resources[split]]
    return [Resource(tuple(f"{mirror}{name}" for mirror in cls.mirrors), md5) for name, md5 in cls.resources]


def _fetch(resource: Resource, path: Path, progress: Progress, family: Family, folder: Path) -> None:
    """Try each mirror in turn until a file with the right checksum has arrived."""
    tried = []
    for url in resource.urls:
        try:
            found = _retrieve(url, path, progress, LARGEST.get(family.folder, LARGEST_ELSE))
        except (OSError, http.client.HTTPException, ValueError) as error:
            tried.append(f"{url}: {_reason(error)}")
            continue
        if found != resource.md5:
            tried.append(f"{url}: the file has the checksum {found}, not {resource.md5}")
        elif path.suffix == ".gz" and path.stem in family.sha256 and not is_known(path, family):
            tried.append(f"{url}: the file unpacks to another SHA-256 than {family.title}'s")
        else:
            return
    listing = "\n".join(f"  {line}" for line in tried)
    raise DownloadError(
        f"{family.title} is not in {folder}, and downloading it failed. Tried:\n{listing}\n"
        f"{ways_to_provide(family, folder)}"
    )


def _reason(error: Exception) -> str:
    """Describe what went wrong, without the wrapping that urllib puts around errors of the system; on one short line,
    since a server may say anything."""
    wrapped = isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError)
    text = str(error.reason) if isinstance(error, urllib.error.URLError) and wrapped else str(error)
    return printable(" ".join(text.split()))[:LONGEST_REASON] or type(error).__name__


def _retrieve(url: str, path: Path, progress: Progress, largest: int) -> str:
    """Fetch `url` to `path`; the MD5 of what came. Raises `OSError` where it is larger, or takes longer than it may."""
    digest, size, end = hashlib.md5(usedforsecurity=False), 0, time.monotonic() + largest / SLOWEST
    request = urllib.request.Request(url, headers={"User-Agent": "mnistgen"})
    task = progress.add_task(path.name, total=None)
    with _opener().open(request, timeout=TIMEOUT) as response, path.open("wb") as file:
        progress.update(task, total=response.length)
        while block := response.read1(BLOCK):  # what has come, however little, so that the time is looked at
            size += len(block)
            if max(size, response.length or 0) > largest:
                raise OSError(f"the file is larger than {largest // 2**20} MiB, which none of this dataset is")
            if time.monotonic() > end:
                raise TimeoutError(f"it took longer than {largest / SLOWEST / 60:.0f} minutes")
            file.write(block)
            digest.update(block)
            progress.update(task, advance=len(block))
    return digest.hexdigest()


def _opener() -> urllib.request.OpenerDirector:
    """An opener of http and https and nothing else, wherever a server redirects to."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _unpack(path: Path, folder: Path) -> None:
    """Unpack a fetched file, whose checksum is right, into `folder`."""
    openers: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open}
    if path.suffix in openers:
        with openers[path.suffix](path) as source, (folder / path.stem).open("wb") as target:
            shutil.copyfileobj(source, target, BLOCK)
    elif path.suffix == ".zip":
        # EMNIST: half a gigabyte of .gz files; they stay packed, since all splits together unpack to 1.8 GB.
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith("-ubyte.gz"):
                    with archive.open(member) as source, (folder / Path(member).name).open("wb") as target:
                        shutil.copyfileobj(source, target, BLOCK)
    else:
        path.replace(folder / path.name)
    path.unlink(missing_ok=True)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
