"""The records of a study: each task is done once, by whichever process claims it, and its result is kept.

A task is a frozen description of everything that determines its result, the tasks that it depends on included. So the
same description gives the same result whichever process does it, and its hash is the name of its record. A task is
claimed by a lock on a file, which the system releases when a process dies: processes, also of several machines, share a
study by sharing its folder.
"""

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from mnistgen.console import Display
from mnistgen.errors import LeakageError, MnistgenError, UsageError, described
from mnistgen.files import PREFIX, atomic_file, claimed, clear_leftovers

RECORDS, MADE = "records", "made"  # the folders of a study
FORMER = "cells"  # what the first one was called, and is where it lies already
FORMAT = 1  # of what a task does: another number, and nothing done before counts
POLL, LOOK = 0.2, 2.0  # seconds between looks at what the others have done: to go on, and to show it


@dataclass(frozen=True)
class Task(ABC):
    """One piece of work with one record."""

    kind: ClassVar[str]
    suffix: ClassVar[str] = ""  # of the file that it makes beside its record; none: there is no such file
    holds: ClassVar[Mapping[str, type]] = {}  # numbers and texts of its result; a record without one is damaged
    trainings: ClassVar[int] = 0  # how many networks it trains

    @property
    @abstractmethod
    def name(self) -> str:
        """Readable, and safe in file names."""

    @property
    def dependencies(self) -> tuple["Task", ...]:
        """The tasks whose results it takes up: those among its fields."""
        return tuple(_tasks_in(self))

    def cost(self) -> tuple[str, float]:
        """Name the work, and say how much of it there is: the seconds of equal work grow with that."""
        return self.kind, 1.0

    def trial(self, context: Any) -> float:  # noqa: ARG002
        """Measure the seconds of one unit of that work, on a little of it; 0 where that is not worth while."""
        return 0.0

    @abstractmethod
    def run(self, context: Any) -> dict[str, Any]:
        """Do the work: write `suffix`'s file where there is one, and return what goes into the record."""

    def spec(self) -> dict[str, Any]:
        """Everything that determines the result, for JSON."""
        return asdict(self)


def _tasks_in(value: Any) -> Iterator[Task]:
    """The tasks among the fields of a dataclass, and among the fields of those that are none."""
    for field in vars(value).values():
        if isinstance(field, Task):
            yield field
        elif is_dataclass(field):
            yield from _tasks_in(field)


def with_dependencies(task: Task, wanted: Callable[[Task], bool] = lambda _: True) -> Iterator[Task]:
    """Yield a task that is `wanted` after all that it depends on, as far as those are."""
    if wanted(task):
        for dependency in task.dependencies:
            yield from with_dependencies(dependency, wanted)
        yield task


@dataclass(frozen=True)
class Record:
    """What came out of a task."""

    key: str
    kind: str
    spec: dict[str, Any]  # everything that determines the result
    result: dict[str, Any]
    seconds: float
    device: str


class Failure(NamedTuple):
    """A task that could not be done."""

    name: str
    why: str


class Cache:
    """The records of a folder. A record counts only for a task of the very same specification.

    A task's specification holds that of the tasks it depends on, and `frame` is what all have in common: data,
    precision. So a folder can be taken up with other sizes, conditions or seeds, and what is done is found again.
    """

    def __init__(self, folder: Path, frame: dict[str, Any]) -> None:
        self.folder, self.frame = folder, {**frame, "format": FORMAT}
        self.damaged: dict[str, str] = {}  # what is wrong with records that do not count, by their paths
        self.records = folder / (FORMER if (folder / FORMER).is_dir() else RECORDS)
        self._keys: dict[Task, str] = {}
        self._read: dict[str, Record] = {}
        self._old = {path: path.stat().st_mtime_ns for path in self.records.glob("*.failed")}  # are tried again

    def check_folder(self) -> None:
        """Raise `UsageError` where the folder holds something and is no study's: a report must replace nothing else."""
        try:
            names = {path.name for path in self.folder.iterdir() if not path.name.startswith(PREFIX)}
        except FileNotFoundError:
            return
        except OSError as error:
            raise MnistgenError(f"{self.folder}: cannot be read: {error.strerror}.") from error
        if names and self.records.name not in names:
            raise UsageError(
                f"{self.folder}: holds files and is no folder of a study. Give --out a new folder or an empty one."
            )

    def open(self) -> None:
        """Make the folder, or say now why it cannot be written, and clear what a killed process left in it.

        Raises `UsageError` where it holds something and is no study's.
        """
        self.check_folder()
        for folder in (self.folder, self.records, self.folder / MADE):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise MnistgenError(f"{folder}: cannot be written: {error.strerror}.") from error
            clear_leftovers(folder)

    def key(self, task: Task) -> str:
        """The name of a task's files: readable, and with a hash of its specification."""
        if task not in self._keys:
            text = json.dumps(self._spec(task), sort_keys=True)
            self._keys[task] = f"{task.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return self._keys[task]

    def made(self, task: Task) -> Path:
        """The file that the task makes beside its record."""
        return self.folder / MADE / f"{self.key(task)}{task.suffix}"

    def get(self, task: Task) -> Record | None:
        """Return the record of a finished task, or None where it is still to be done, again where it is damaged."""
        key = self.key(task)
        if key not in self._read:
            path = self._path(task, ".json")
            try:
                self._read[key] = self._checked(task, json.loads(path.read_text("utf-8")))
            except FileNotFoundError:
                return None
            except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
                self.damaged[str(path)] = " ".join(str(error).split())
                return None
            self.damaged.pop(str(path), None)
        return self._read[key]

    def __getitem__(self, task: Task) -> Record:
        """Return the record of a task that is done."""
        record = self.get(task)
        assert record is not None, task.name
        return record

    def once(self, task: Task, context: Any, allowed: Callable[[], bool] = lambda: True) -> bool:
        """Do a task unless it is done, has failed since this cache was made, or is not `allowed`; return False, and do
        nothing, where another process is doing it.

        What fails is noted, but for a `LeakageError`, which ends the study, because its result would mean nothing.
        """
        with claimed(self._path(task, ".lock", hidden=".")) as mine:
            if mine and self.get(task) is None and self.failure(task) is None and allowed():
                start = time.perf_counter()
                try:
                    result = task.run(context)
                    self.put(task, result, time.perf_counter() - start, context.device.type)
                except LeakageError:
                    raise
                except Exception as error:  # noqa: BLE001  a plugin may raise anything; the other tasks go on
                    why = str(error) if isinstance(error, MnistgenError) else described(error)
                    _write(self._path(task, ".failed"), {"task": task.name, "why": why})
            return mine

    def put(self, task: Task, result: dict[str, Any], seconds: float, device: str) -> None:
        """Write the record of a finished task; what it made must be written before."""
        record = Record(self.key(task), task.kind, self._spec(task), result, round(seconds, 6), device)
        _write(self._path(task, ".json"), vars(record))
        self._path(task, ".failed").unlink(missing_ok=True)

    def failure(self, task: Task) -> str | None:
        """Say why a task has failed in this run, or None where it has not."""
        path = self._path(task, ".failed")
        try:
            return None if self._old.get(path) == path.stat().st_mtime_ns else str(json.loads(path.read_bytes())["why"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return "for a reason that cannot be read"

    def failures(self, everything: Sequence[Task]) -> list[Failure]:
        """What has failed, and what depends on it and so was not done; of tasks in the order of a plan."""
        found: dict[Task, Failure] = {}
        for task in everything:
            failed = next((found[dependency].name for dependency in task.dependencies if dependency in found), None)
            why = self.failure(task) or (f"it depends on {failed}, which has failed" if failed else "")
            if why and self.get(task) is None:
                found[task] = Failure(task.name, why)
        return list(found.values())

    def finished(self) -> set[str]:
        """The keys of all tasks that are done, whoever did them."""
        return {path.stem for path in self.records.glob("[!.]*.json")}

    def _checked(self, task: Task, content: Any) -> Record:
        """Return the record that a file holds, or raise an error that says what is wrong with it."""
        if not isinstance(content, dict):
            raise TypeError("it is no record")
        content.pop("work", None)  # before there was one number, records had seconds by parts of the work
        if isinstance(content["seconds"], dict):
            content["seconds"] = sum(content["seconds"].values())
        record = Record(**content)
        if record.spec != self._spec(task):
            raise ValueError("it is of another task")
        if not isinstance(record.result, dict):
            raise TypeError(f"its result is {record.result!r}")
        found: dict[str, Any] = record.result | {"seconds": record.seconds}
        for name, kind in {**task.holds, "seconds": float}.items():
            value: Any = found.get(name)
            if not (isinstance(value, str) if kind is str else type(value) in (int, float) and math.isfinite(value)):
                raise TypeError(f"its {name} is {value!r}")
        if task.suffix and not self.made(task).is_file():
            raise ValueError(f"{self.made(task).name}, which it is about, is gone")
        return record

    def _spec(self, task: Task) -> dict[str, Any]:
        # As it comes back from a file: tuples are lists there.
        spec: dict[str, Any] = json.loads(json.dumps({"frame": self.frame, "kind": task.kind, **task.spec()}))
        return spec

    def _path(self, task: Task, suffix: str, hidden: str = "") -> Path:
        return self.records / f"{hidden}{self.key(task)}{suffix}"


class Runner:
    """Does tasks, those that they depend on first, beside whatever other processes do."""

    def __init__(
        self, cache: Cache, seconds: Callable[[Task], float], display: Display, budget: float | None = None
    ) -> None:
        """`seconds`: the estimate for a task. `budget`: seconds after which none should still be running, or None."""
        self.cache, self._seconds, self._display, self._budget = cache, seconds, display, budget
        self._start, self._looked = time.monotonic(), -math.inf
        self._left: set[Task] = set()  # what this run does not do: it failed, or would not end within the budget
        self._open: dict[str, float] = {}  # estimates of what is to be done when it begins, by key
        self._done: set[str] = set()
        self._now: Task | None = None

    def run(self, tasks: Sequence[Task], context: Any) -> None:
        """Do `tasks`; return when each is done, has failed or does not fit into the budget.

        What a task waits for that another process is doing is put off. What depends on nothing that is left over still
        gets its turn, and what a finished task depended on is not done again.
        """
        waiting = list(
            dict.fromkeys(t for task in tasks for t in with_dependencies(task, lambda t: self.cache.get(t) is None))
        )
        if not self._display.quiet:  # who shows nothing need not measure what it would take
            self._open = {self.cache.key(task): self._seconds(task) for task in waiting}
        with self._display.live():
            while waiting:
                before, waiting = waiting, [task for task in waiting if not self._settled(task, context)]
                if len(waiting) == len(before):
                    self._now = None
                    self.show(0.0)
                    time.sleep(POLL)
            self._now = None
            self.show(0.0, last=True)

    def show(self, share: float, *, last: bool = False) -> None:
        """Show how far all processes have come, with a share of the task that this one is at."""
        if self._display.quiet:
            return
        if last or time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
            self._done = self.cache.finished() & self._open.keys()
        seconds = sum(map(self._open.__getitem__, self._done))
        seconds += share * self._open.get(self.cache.key(self._now), 0.0) if self._now else 0.0
        text = "done" if last else self._now.name if self._now else "waiting for the other processes"
        progress = min(1.0, seconds / (sum(self._open.values()) or 1.0))
        self._display.update(progress, f"{len(self._done)} of {len(self._open)} tasks  {text}", last=last)

    def _settled(self, task: Task, context: Any) -> bool:
        """Whether nothing more is to be done for a task, which is done now where that is possible."""
        if self.cache.get(task) is not None:
            return True
        if not self._left.intersection(task.dependencies):
            if any(self.cache.get(dependency) is None for dependency in task.dependencies):
                return False
            self._now = task
            if not self.cache.once(task, context, allowed=lambda: self._fits(task)):
                return False
        if self.cache.get(task) is None:
            self._left.add(task)
            if why := self.cache.failure(task):
                self._display.note(f"failed: {task.name}: {why}")
        return True

    def _fits(self, task: Task) -> bool:
        """Whether the task would end within the budget."""
        return self._budget is None or time.monotonic() - self._start + self._seconds(task) <= self._budget


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
