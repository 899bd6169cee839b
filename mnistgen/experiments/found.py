"""A study as far as it has come: what its reports are made from."""

from dataclasses import dataclass
from pathlib import Path

from mnistgen.experiments.design import Design, Plan
from mnistgen.experiments.lab import Lab
from mnistgen.experiments.records import Records
from mnistgen.experiments.results import Comparison, Known, Outcome, verdict
from mnistgen.experiments.runner import Failure


@dataclass(frozen=True, eq=False)
class Study:
    """A study as far as it has come."""

    design: Design
    plan: Plan
    records: Records
    lab: Lab
    outcomes: list[Outcome]
    comparisons: list[Comparison]
    known: list[Known]
    failures: list[Failure]
    done: int  # cells
    seconds: float  # of all cells together, however many processes shared them

    @property
    def folder(self) -> Path:
        """Where the records and the reports are."""
        return self.records.folder

    @property
    def verdict(self) -> str:
        """One sentence, by the numbers alone."""
        return verdict(self.comparisons, self.known)

    @property
    def missing(self) -> int:
        """Cells that are still to be done."""
        return len(self.plan.everything) - self.done
