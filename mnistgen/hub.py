"""Files on Hugging Face's hub, or on a server of its kind ($HF_ENDPOINT); needs the extra `hub`.

An address is hf://OWNER/NAME, with @REVISION behind it for a branch, a tag or a commit, and /PATH for a part of the
repository: hf://ylecun/mnist@main/mnist. What has been fetched stays in the hub client's own cache, also for times
without a network.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from mnistgen.errors import MnistgenError, UsageError
from mnistgen.extras import require_packages

PREFIX = "hf://"
PATIENCE = 5.0  # seconds for the hub to answer
_ADDRESS = re.compile(r"hf://(?:datasets/|models/)?([\w.-]+/[\w.-]+)(?:@([^/@\s]+))?(?:/([^@\s]+))?")


class Address(NamedTuple):
    """A repository, or a part of one, at a revision."""

    repository: str
    revision: str | None
    path: str

    @classmethod
    def of(cls, text: str) -> "Address":
        """Raises `UsageError` where the text is no address."""
        found = _ADDRESS.fullmatch(text)
        if not found:
            raise UsageError(f"{text}: is no address on the hub; write hf://OWNER/NAME or hf://OWNER/NAME@REVISION.")
        return cls(found[1], found[2], (found[3] or "").strip("/"))

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repository}{revision}{'/' * bool(self.path)}{self.path}"


def is_address(source: str | Path) -> bool:
    """Whether a source is on the hub, and no path."""
    return isinstance(source, str) and source.startswith(PREFIX)


def fetch_file(address: Address, error: type[MnistgenError]) -> Path:
    """The file at an address, from the cache or the hub. Raises `error`."""
    with _told(address, error):
        return Path(
            _client().hf_hub_download(
                address.repository,
                address.path,
                revision=address.revision,
                cache_dir=_cache(),
                local_files_only=_offline(),
            )
        )


def fetch_tables(address: Address, error: type[MnistgenError]) -> Path:
    """The folder of a dataset's Parquet files, from the cache or the hub.

    Raises `error`, also where there are several such folders and the address names none of them.
    """
    within = f"{address.path}/" if address.path else ""
    with _told(address, error):
        home = Path(
            _client().snapshot_download(
                address.repository,
                repo_type="dataset",
                revision=address.revision,
                cache_dir=_cache(),
                allow_patterns=f"{within}*.parquet",
                local_files_only=_offline(),
            )
        )
    folders = sorted({path.parent for path in (home / address.path).rglob("*.parquet")})
    if not folders:
        raise error(f"{address}: holds no Parquet files, in which the hub keeps datasets.")
    if len(folders) > 1:
        names = ", ".join(str(folder.relative_to(home)) for folder in folders)
        raise error(f"{address}: has several datasets; name one behind the address, as in {address}/FOLDER: {names}.")
    return folders[0]


def upload(address: Address, files: Mapping[str, bytes], *, message: str, private: bool = False) -> str:
    """Write files by their names into a model's repository, in one commit; make it where there is none.

    Returns the commit. Raises `MnistgenError`.
    """
    with _told(address, MnistgenError):
        from huggingface_hub import CommitOperationAdd

        client = _client()
        client.create_repo(address.repository, exist_ok=True, private=private)
        commit = client.create_commit(
            address.repository,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()],
            commit_message=message,
            revision=address.revision,
        )
        return str(commit.oid)


def _client() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="mnistgen")


def _offline() -> bool:
    """Whether nobody answers at the hub's address; the client would find that out in half a minute."""
    from huggingface_hub import constants

    place = urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    if getproxies().get(place.scheme):
        return False
    try:
        socket.create_connection((place.hostname or "", place.port or 443), PATIENCE).close()
    except OSError:
        return True
    return False


def _cache() -> str | None:
    """The folder of the client's cache, where the environment names one after the client was imported."""
    return os.environ.get("HF_HUB_CACHE") or None


@contextmanager
def _told(address: Address, kind: type[MnistgenError]) -> Iterator[None]:
    """Say in a sentence what the hub or the network has against it."""
    require_packages(str(address), "huggingface_hub", extra="hub", error=kind)
    from huggingface_hub import errors
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        raise kind(
            f"{address}: is not in the cache, and the hub cannot be reached; connect to the internet, or see that "
            "$HF_ENDPOINT is right and $HF_HUB_OFFLINE is not set."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise kind(f"{address}: the repository has no revision {address.revision or 'main'!r}.") from error
    except errors.RepositoryNotFoundError as error:
        raise kind(
            f"{address}: there is no such repository, or it is private; `hf auth login` gives access to your own."
        ) from error
    except errors.EntryNotFoundError as error:
        raise kind(f"{address}: the repository holds no {address.path or 'such file'}.") from error
    except errors.HFValidationError as error:
        raise kind(f"{address}: is no address on the hub: {_first_line(error)}") from error
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise kind(f"{address}: the hub refuses or cannot be reached: {_first_line(error)}") from error
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests")):  # the clients that it has had
            raise
        raise kind(f"{address}: the hub cannot be reached: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") + "."
