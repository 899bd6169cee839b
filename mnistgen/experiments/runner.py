"""Doing the cells of a study: each once, by whichever process is free, whatever becomes of the others."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mnistgen.console import Display
from mnistgen.errors import LeakageError, MnistgenError
from mnistgen.experiments.cells import Bench, Cell
from mnistgen.experiments.costs import Costs
from mnistgen.experiments.crew import POLL, Crew
from mnistgen.experiments.lab import Lab, Work
from mnistgen.experiments.records import Records

LOOK = 2.0  # seconds between looks at what the other processes have finished


class Failure(NamedTuple):
    """A cell that could not be done."""

    name: str
    why: str


class Runner:
    """Does cells, those that they need first, and notes what fails instead of ending."""

    def __init__(
        self,
        lab: Lab,
        records: Records,
        crew: Crew,
        costs: Costs,
        *,
        display: Display | None = None,
        budget: float | None = None,
    ) -> None:
        """`budget`: seconds after which no cell should still be running; None for as long as it takes."""
        self.lab, self.records, self.crew, self.costs = lab, records, crew, costs
        self._display = display or Display("augment", quiet=True)
        self._budget, self._start = budget, time.monotonic()
        self._progress = Progress(records, {}, 0.0)
        self._mine: set[str] = set()

    def run(self, cells: Sequence[Cell], everything: Sequence[Cell]) -> list[Failure]:
        """Do `cells`, of `everything` that is to be done with them; returns what has failed, on all processes.

        Raises `LeakageError`, which ends the study, because its result would mean nothing.
        """
        if not self._display.quiet:  # who shows nothing need not measure what it would take
            self._progress = Progress.of(self.records, self.costs, everything)
        try:
            with self._display.live():
                self._run(cells)
        except MnistgenError as error:
            if self.crew.rank:  # the command line speaks for the first process alone
                print(f"mnistgen: process {self.crew.rank}: {error}", file=sys.stderr, flush=True)
            raise
        return [Failure(cell.name, why) for cell in everything if (why := self.records.failure(cell))]

    def _run(self, cells: Sequence[Cell]) -> None:
        for cell in self._mine_to_do(cells):
            self._go_on_with(cell)
        self.crew.count("finished")
        while self.crew.asked("finished") < self.crew.size:
            self._show("waiting for the other processes")
            time.sleep(POLL)
        self._progress.look(always=True)
        self._show("done", last=True)

    def _mine_to_do(self, cells: Sequence[Cell]) -> Iterator[Cell]:
        """This process's share, as it becomes free: a cell that has to wait for another process is put off."""
        put_off: list[Cell] = []
        while True:
            ready = next((cell for cell in put_off if not self._must_wait(cell)), None)
            if ready is not None:
                put_off.remove(ready)
                yield ready
            elif (number := self.crew.count("cell")) <= len(cells):
                put_off.append(cells[number - 1])
            elif put_off:
                yield put_off.pop(0)
            else:
                return

    def _must_wait(self, cell: Cell) -> bool:
        """Whether something that the cell needs is being done by another process."""
        for need in _needs(cell):
            if self.records.get(need) is None and self.records.failure(need) is None:
                key = self.records.key(need)
                if key not in self._mine and self.crew.asked(key):
                    return True
        return False

    def _go_on_with(self, cell: Cell) -> bool:
        """Do what the cell needs and then the cell, as far as the budget goes; whether it went that far.

        What does not fit is left to the next run, and shorter cells still get their turn.
        """
        if self.records.get(cell) is not None:
            return True
        if not all(self._go_on_with(need) for need in cell.needs()) or self._over(cell):
            return False
        self._ensure(cell)
        return True

    def _over(self, cell: Cell) -> bool:
        """Whether the cell would not end within the budget."""
        return self._budget is not None and time.monotonic() - self._start + self.costs.seconds(cell) > self._budget

    def _ensure(self, cell: Cell) -> bool:
        """Whether the cell is done when this returns."""
        if self.records.get(cell) is not None:
            return True
        if self.records.failure(cell) is not None:
            return False
        for need in cell.needs():
            if not self._ensure(need):
                self.records.fail(cell, f"it needs {need.name}, which has failed")
                return False
        key = self.records.key(cell)
        if self.crew.count(key) > 1 and key not in self._mine:  # another process is at it
            while self.records.get(cell) is None and self.records.failure(cell) is None:
                self._show(f"waiting for {cell.name}")
                time.sleep(POLL)
            return self.records.get(cell) is not None
        self._mine.add(key)
        return self._do(cell, lambda done: self._show(cell.name, cell, done))

    def _do(self, cell: Cell, say: Callable[[float], None]) -> bool:
        work = Work()
        try:
            result = cell.run(Bench(self.lab, self.records, work, say))
            self.records.put(cell, result, work, self.lab.device.type)
        except LeakageError:
            raise
        except Exception as error:  # noqa: BLE001  a plugin may raise anything; the other cells go on
            why = str(error) if isinstance(error, MnistgenError) else f"{type(error).__name__}: {error}"
            self.records.fail(cell, why)
            self._display.note(f"failed: {cell.name}: {why}")
            return False
        return True

    def _show(self, text: str, cell: Cell | None = None, share: float = 0.0, *, last: bool = False) -> None:
        if self._display.quiet:
            return
        self._progress.look()
        now = self._progress.with_share(self.records.key(cell), share) if cell else self._progress.with_share("", 0.0)
        self._display.update(now, f"{self._progress.counts}  {text}", last=last)


class Progress:
    """How far all processes together have come, by the records in the folder."""

    def __init__(self, records: Records, seconds: dict[str, float], done: float) -> None:
        """`seconds`: of the cells that are still to be done, by their keys; `done`: of the others."""
        self._records, self._open, self._done = records, seconds, done
        self._total = done + sum(seconds.values()) or 1.0
        self._cells, self._finished = len(seconds), 0
        self._looked = -LOOK

    @classmethod
    def of(cls, records: Records, costs: Costs, everything: Sequence[Cell]) -> "Progress":
        """Where a study stands before it starts: what is done already is no progress, and not counted."""
        to_do = [cell for cell in everything if records.get(cell) is None]
        return cls(records, {records.key(cell): costs.seconds(cell) for cell in to_do}, 0.0)

    @property
    def counts(self) -> str:
        return f"{self._finished} of {self._cells} cells"

    def look(self, *, always: bool = False) -> None:
        """Take in what has been finished since, now and then."""
        now = time.monotonic()
        if always or now - self._looked >= LOOK:
            self._looked = now
            for key in self._records.finished() & self._open.keys():
                self._done += self._open.pop(key)
                self._finished += 1

    def with_share(self, key: str, share: float) -> float:
        """In [0, 1], with a share of one cell."""
        return min(1.0, (self._done + share * self._open.get(key, 0.0)) / self._total)


def _needs(cell: Cell) -> tuple[Cell, ...]:
    return tuple(found for need in cell.needs() for found in (*_needs(need), need))
