"""The records of a run as TensorBoard's events, in the folder of the run; needs the extra `tensorboard`."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mnistgen.cli.run_folder import EVENTS, RunFolder
from mnistgen.extras import require_packages


class TensorBoard:
    """Keeps records until the run's folder is its own, and then writes them into a file of events.

    A folder of several runs, such as one for each seed, is a page of TensorBoard with the runs over one another.
    """

    def __init__(self, folder: RunFolder) -> None:
        require_packages("--logger tensorboard", "tensorboard", extra="tensorboard")
        self.folder = folder
        self._kept: list[tuple[Mapping[str, Any], Tensor | None]] = []
        self._writer: Any = None

    def add(self, record: Mapping[str, Any], samples: Tensor | None) -> None:
        """Take a record of the log, and a picture (H, W) uint8 where there is one."""
        self._kept.append((record, samples))

    def write(self) -> None:
        """Write what was kept, unless the folder is still that of the run to be replaced."""
        if self.folder.place != self.folder.path or not self._kept:
            return
        if self._writer is None:
            self._writer = self._opened()
        for record, samples in self._kept:
            for name, value in scalars(record).items():
                self._writer.add_scalar(name, value, record["step"])
            if samples is not None:
                self._writer.add_image("samples", samples, record["step"], dataformats="HW")
        self._kept.clear()
        self._writer.flush()

    def _opened(self) -> Any:
        """A writer whose file is the run's. Events of a run that is resumed count up to where it goes on."""
        from torch.utils.tensorboard import SummaryWriter

        before = set(self.folder.path.glob(EVENTS))
        writer = SummaryWriter(str(self.folder.path), purge_step=self._kept[0][0]["step"])
        self.folder.own(*(path.name for path in set(self.folder.path.glob(EVENTS)) - before))
        return writer


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record, by the name that TensorBoard groups them by."""
    numbers = {f"losses/{name}": value for name, value in record["losses"].items()}
    numbers |= {"validation loss": record["validation"], "learning rate": record["lr"], "epoch": record["epoch"]}
    numbers |= {f"samples/{name}": value for name, value in record.get("monitor", {}).items()}
    return {
        re.sub(r"[^\w/. -]", "_", name): float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
