"""What a study has done so far: one durable record for each finished cell, beside what the cell made."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mnistgen.errors import MnistgenError, UsageError
from mnistgen.experiments.lab import Work
from mnistgen.files import PREFIX, atomic_file, clear_leftovers

CELLS, MADE = "cells", "made"  # the folders of a study
FORMAT = 1  # of what a cell does: another number, and nothing done before counts


class Recorded(Protocol):
    """What a record is about: a cell, as far as its record goes."""

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    @property
    def numbers(self) -> tuple[str, ...]: ...

    @property
    def texts(self) -> tuple[str, ...]: ...

    def spec(self) -> dict[str, Any]:
        """Everything that determines the result, for JSON."""
        ...


@dataclass(frozen=True)
class Record:
    """What came out of a cell."""

    key: str
    kind: str
    spec: dict[str, Any]  # everything that determines the result
    result: dict[str, Any]
    work: dict[str, float]  # by part: steps, images
    seconds: dict[str, float]  # by the same parts
    device: str


class Records:
    """The records of a folder. A record counts only for a cell of the very same specification.

    A cell's specification holds that of the cells it needs, and `frame` is what all have in common: data, precision.
    So a folder can be taken up with other sizes, arms or seeds, and what is done already is found again.
    """

    def __init__(self, folder: Path, frame: dict[str, Any]) -> None:
        self.folder, self.frame = folder, {**frame, "format": FORMAT}
        self._keys: dict[Recorded, str] = {}
        self._read: dict[str, Record] = {}
        self.damaged: dict[str, str] = {}  # what is wrong with records that do not count, by their paths

    def check_folder(self) -> None:
        """Raise `UsageError` where the folder holds something and is no study's: a report must replace nothing else."""
        try:
            names = {path.name for path in self.folder.iterdir() if not path.name.startswith(PREFIX)}
        except FileNotFoundError:
            return
        except OSError as error:
            raise MnistgenError(f"{self.folder}: cannot be read: {error.strerror}.") from error
        if names and CELLS not in names:
            raise UsageError(
                f"{self.folder}: holds files and is no folder of a study. Give --out a new folder or an empty one."
            )

    def open(self) -> None:
        """Make the folder, or say now why it cannot be written, and clear what a killed process left in it.

        Raises `UsageError` where it holds something and is no study's.
        """
        self.check_folder()
        for folder in (self.folder, self.folder / CELLS, self.folder / MADE):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise MnistgenError(f"{folder}: cannot be written: {error.strerror}.") from error
            clear_leftovers(folder)

    def key(self, cell: Recorded) -> str:
        """The name of a cell's files: readable, and with a hash of its specification."""
        if cell not in self._keys:
            text = json.dumps(self._spec(cell), sort_keys=True)
            self._keys[cell] = f"{cell.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return self._keys[cell]

    def made(self, cell: Recorded) -> Path:
        """The file that the cell makes beside its record."""
        return self.folder / MADE / f"{self.key(cell)}{cell.suffix}"

    def get(self, cell: Recorded) -> Record | None:
        """The record of a finished cell, or None where it is still to be done: one that is damaged is done again."""
        key = self.key(cell)
        if key not in self._read:
            path = self._path(key)
            try:
                record = self._checked(cell, json.loads(path.read_text("utf-8")))
            except FileNotFoundError:
                return None
            except (OSError, ValueError, TypeError, RecursionError) as error:
                self.damaged[str(path)] = " ".join(str(error).split())
                return None
            self.damaged.pop(str(path), None)
            self._read[key] = record
        return self._read[key]

    def _checked(self, cell: Recorded, content: Any) -> Record:
        """The record that a file holds. Raises `ValueError` or `TypeError` that says what is wrong with it."""
        if not isinstance(content, dict):
            raise TypeError("it is no record")
        record = Record(**content)
        if record.spec != self._spec(cell):
            raise ValueError("it is of another cell")
        for part in ("result", "work", "seconds"):
            if not isinstance(getattr(record, part), dict):
                raise TypeError(f"its {part} is {getattr(record, part)!r}")
        for name in cell.texts:
            if not isinstance(record.result.get(name), str):
                raise TypeError(f"its {name} is {record.result.get(name)!r}")
        _check_numbers({name: record.result.get(name) for name in cell.numbers})
        _check_numbers(record.work)
        _check_numbers({part: record.seconds.get(part) for part in record.work} | record.seconds)
        if cell.suffix and not self.made(cell).is_file():
            raise ValueError(f"{self.made(cell).name}, which it is about, is gone")
        return record

    def put(self, cell: Recorded, result: dict[str, Any], work: Work, device: str) -> None:
        """Write the record of a finished cell; what it made must be written before."""
        key = self.key(cell)
        seconds = {part: round(value, 3) for part, value in work.seconds.items()}
        record = Record(key, cell.kind, self._spec(cell), result, dict(work.amounts), seconds, device)
        _write(self._path(key), record.__dict__)
        self._failure_path(key).unlink(missing_ok=True)

    def fail(self, cell: Recorded, why: str) -> None:
        """Note that a cell has failed; the next run tries it again."""
        _write(self._failure_path(self.key(cell)), {"cell": cell.name, "why": why})

    def failure(self, cell: Recorded) -> str | None:
        """Why a cell has failed, or None where it has not."""
        try:
            return str(json.loads(self._failure_path(self.key(cell)).read_text("utf-8"))["why"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return "for a reason that cannot be read"

    def forget_failures(self, cells: Iterable[Recorded]) -> None:
        """Let those of `cells` that failed be tried again."""
        for cell in cells:
            self._failure_path(self.key(cell)).unlink(missing_ok=True)

    def finished(self) -> set[str]:
        """The keys of all cells that are done, whoever did them."""
        return {path.stem for path in (self.folder / CELLS).glob("[!.]*.json")}

    def rates(self) -> dict[str, float]:
        """Seconds for one unit of each part of the work, by the records read so far."""
        seconds: dict[str, float] = {}
        amounts: dict[str, float] = {}
        for record in self._read.values():
            for part, amount in record.work.items():
                seconds[part] = seconds.get(part, 0.0) + record.seconds[part]
                amounts[part] = amounts.get(part, 0.0) + amount
        return {part: seconds[part] / amounts[part] for part in seconds if amounts[part]}

    def _spec(self, cell: Recorded) -> dict[str, Any]:
        # As it comes back from a file: tuples are lists there.
        spec: dict[str, Any] = json.loads(json.dumps({"frame": self.frame, "kind": cell.kind, **cell.spec()}))
        return spec

    def _path(self, key: str) -> Path:
        return self.folder / CELLS / f"{key}.json"

    def _failure_path(self, key: str) -> Path:
        return self.folder / CELLS / f"{key}.failed"


def _check_numbers(values: Mapping[str, Any]) -> None:
    """Raise `TypeError` for what is no number, and `ValueError` for one that is not finite."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"its {name} is {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"its {name} is {value}")


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
