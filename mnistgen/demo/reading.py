"""Read: how MNIST's format is made of a drawing or a photograph, and what the evaluators make of it."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mnistgen.data import Dataset, Steps, load_data, photograph, photograph_steps
from mnistgen.errors import DataError, UsageError
from mnistgen.evaluator import SHIPPED, Classifier, load_evaluator, predict
from mnistgen.metrics import nearest, pixels

NEIGHBOURS = 8
DARKEST = 16  # a canvas without a pixel lighter than this is empty
EVALUATORS = [name for name in ("A", "B") if name in SHIPPED]


class Neighbour(NamedTuple):
    """A training image near to what is read."""

    image: Tensor  # (1, 28, 28) uint8
    label: int
    distance: float  # in pixels from 0 to 1


@dataclass(frozen=True, eq=False)
class Reading:
    """What the evaluators make of an image."""

    steps: Steps
    probabilities: dict[str, Tensor]  # by evaluator, (k,)
    neighbours: list[Neighbour]
    note: str  # why there are no neighbours, or ""

    @property
    def image(self) -> Tensor:
        """(1, 28, 28) uint8, as MNIST has them."""
        return self.steps.result[None]

    @property
    def digit(self) -> int:
        """What evaluator A reads."""
        return int(self.probabilities[EVALUATORS[0]].argmax())


class Reader:
    """The evaluators, and the training images where they are on disk; loaded when they are first needed."""

    def __init__(self, data_dir: Path | None = None) -> None:
        self.data_dir = data_dir

    def read_file(self, path: str | Path) -> Reading:
        """Read a photograph. Raises `DataError` where it is none, or there is no ink on it."""
        if not path:
            raise UsageError("There is no photograph: drop one, or take one.")
        (steps,) = photograph_steps(Path(path))
        return self.read(steps)

    def read_drawing(self, grey: Tensor) -> Reading:
        """Read a drawing (h, w) uint8, light on black. Raises as `steps_of`."""
        return self.read(steps_of(grey))

    def read(self, steps: Steps) -> Reading:
        image = Dataset(steps.result[None, None], None, 1, "drawing", "all")
        probabilities = {name: predict(network, image)[0] for name, network in self.evaluators.items()}
        try:
            near, note = self._neighbours(image.images), ""
        except DataError as error:
            near, note = [], f"The nearest training images need MNIST on disk. {error}"
        return Reading(steps, probabilities, near, note)

    @cached_property
    def evaluators(self) -> dict[str, Classifier]:
        return {name: load_evaluator(name) for name in EVALUATORS}

    @lru_cache  # noqa: B019  there is one reader
    def training(self) -> Dataset:
        """Raises `DataError` where MNIST is not on disk."""
        return load_data("mnist", "train", data_dir=self.data_dir, download=False)

    def _neighbours(self, image: Tensor) -> list[Neighbour]:
        data = self.training()
        found = nearest(pixels(image), pixels(data.images), NEIGHBOURS)
        return [
            Neighbour(data.images[place], int(data.y[place]), distance)
            for place, distance in zip(found.indices[0].tolist(), found.distances[0].tolist(), strict=True)
        ]


def steps_of(grey: Tensor) -> Steps:
    """The steps of a drawing (h, w) uint8, light on black, to MNIST's format. Raises `UsageError` on an empty one."""
    if int(grey.max()) < DARKEST:
        raise UsageError("The canvas is empty: draw a digit first.")
    return photograph(grey.numpy(), "The drawing")
