"""Doing the cells of a study: each once, by whichever process is free, whatever becomes of the others."""

import time
from collections.abc import Callable, Sequence
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
        self._looked = -LOOK
        self._done, self._seconds_done = 0, 0.0

    def run(self, cells: Sequence[Cell], everything: Sequence[Cell]) -> list[Failure]:
        """Do `cells`, of `everything` that is to be done with them; returns what has failed, on all processes.

        Raises `LeakageError`, which ends the study, because its result would mean nothing.
        """
        # Who shows nothing need not measure what it would take.
        total = 1.0 if self._display.quiet else self.costs.total(everything) or 1.0
        with self._display.live():
            while (number := self.crew.count("cell")) <= len(cells):
                cell = cells[number - 1]
                if self._over(cell):
                    break
                self._ensure(cell, everything, total)
            self.crew.count("finished")
            while self.crew.asked("finished") < self.crew.size:
                self._show(everything, total, "waiting for the other processes")
                time.sleep(POLL)
            self._looked = -LOOK
            self._show(everything, total, "done", last=True)
        return [Failure(cell.name, why) for cell in everything if (why := self.records.failure(cell))]

    def _over(self, cell: Cell) -> bool:
        if self._budget is None:
            return False
        to_do = [c for c in (*_needs(cell), cell) if self.records.get(c) is None]
        return bool(to_do) and time.monotonic() - self._start + self.costs.total(to_do) > self._budget

    def _ensure(self, cell: Cell, everything: Sequence[Cell], total: float) -> bool:
        """Whether the cell is done when this returns."""
        if self.records.get(cell) is not None:
            return True
        if self.records.failure(cell) is not None:
            return False
        for need in cell.needs():
            if not self._ensure(need, everything, total):
                self.records.fail(cell, f"it needs {need.name}, which has failed")
                return False
        if self.crew.count(self.records.key(cell)) > 1:  # another process is at it
            while self.records.get(cell) is None and self.records.failure(cell) is None:
                self._show(everything, total, f"waiting for {cell.name}")
                time.sleep(POLL)
            return self.records.get(cell) is not None
        return self._do(cell, lambda done: self._show(everything, total, cell.name, cell, done))

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

    def _show(
        self, everything: Sequence[Cell], total: float, text: str, cell: Cell | None = None, share: float = 0.0,
        *, last: bool = False,
    ) -> None:  # fmt: skip
        if self._display.quiet:
            return
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked = now
            finished = [c for c in everything if self.records.get(c) is not None]
            self._done, self._seconds_done = len(finished), self.costs.total(finished)
        current = self.costs.seconds(cell) * share if cell is not None else 0.0
        progress = min(1.0, (self._seconds_done + current) / total)
        self._display.update(progress, f"{self._done} of {len(everything)} cells  {text}", last=last)


def _needs(cell: Cell) -> tuple[Cell, ...]:
    return tuple(found for need in cell.needs() for found in (*_needs(need), need))
