"""The processes that share a study: each cell is done by one of them, whichever is free.

`torchrun` gives its processes a store; a counter in it hands out the work. Cells are trained by one process each, so
no process group is formed, and what a cell comes to does not depend on who does it.
"""

import itertools
import os
import time
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path

import torch
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from mnistgen.errors import UsageError
from mnistgen.files import atomic_file

POLL = 0.2  # seconds between looks at what the others have done


class Crew(ABC):
    """This process among those that share the work."""

    rank: int
    size: int

    @abstractmethod
    def count(self, name: str) -> int:
        """How often all processes together have asked for `name`, this time included: each number is given once."""

    def wait(self, name: str) -> None:
        """Go on when every process has come here."""
        self.count(name)
        while self.asked(name) < self.size:
            time.sleep(POLL)

    @abstractmethod
    def asked(self, name: str) -> int:
        """The number last given for `name`."""

    def check_shared(self, folder: Path) -> None:
        """Raise `UsageError` unless all processes see the same folder."""
        if self.size == 1:
            return
        token = folder / ".shared"
        if self.rank == 0:
            with atomic_file(token) as temporary:
                temporary.write_text("seen by all processes\n", "utf-8")
        self.wait("token written")
        seen = token.exists()
        self.wait("token seen")
        if self.rank == 0:
            token.unlink(missing_ok=True)
        if not seen:
            raise UsageError(f"{folder}: this process does not see the first one's folder. Put it on a shared disk.")


class Alone(Crew):
    """One process that does everything."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        self._counts: dict[str, int] = {}

    def count(self, name: str) -> int:
        self._counts[name] = self._counts.get(name, 0) + 1
        return self._counts[name]

    def asked(self, name: str) -> int:
        return self._counts.get(name, 0)


class Torchrun(Crew):
    """One of the processes that `torchrun` has started."""

    def __init__(self, number: int) -> None:
        """`number`: of the study, for each has counters of its own."""
        store, self.rank, self.size = _rendezvous()
        # A restarted group meets the store of the one before it.
        self._store = PrefixStore(f"augment {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} {number}", store)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())

    def count(self, name: str) -> int:
        return int(self._store.add(name, 1))

    def asked(self, name: str) -> int:
        return int(self._store.add(name, 0))


@cache
def _rendezvous() -> tuple[Store, int, int]:
    """The store that all processes see, this one's rank, and how many there are."""
    store, rank, size = next(iter(rendezvous("env://")))
    return store, rank, size


_studies = itertools.count()  # begun by this process; all processes of a crew begin the same ones, in the same order


def crew() -> Crew:
    """The crew of a study that this process begins."""
    return Alone() if int(os.environ.get("WORLD_SIZE", "1")) == 1 else Torchrun(next(_studies))
