"""Draw: images of the digits that are asked for, as they form; and the files to take home."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnistgen.data import Dataset, export_data
from mnistgen.demo.models import Models
from mnistgen.errors import UsageError
from mnistgen.limits import checked_seed
from mnistgen.model import HasTrajectory
from mnistgen.sampling import grid, sample_batches, save_png
from mnistgen.sampling.options import digits_of
from mnistgen.sampling.trajectories import trajectory_steps

MOST = 400  # images in one picture
PIECE = 20  # images at a time of a model whose images do not form step by step


class Step(NamedTuple):
    """A drawing on its way."""

    images: Tensor  # (n, 1, 28, 28) uint8
    columns: int
    words: str  # how far it is
    last: bool = False

    @property
    def picture(self) -> Tensor:
        """(h, w) uint8."""
        return grid(self.images, self.columns)


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn, by which model."""

    models: Models
    name: str
    digits: str = ""
    each: int = 1  # images of each digit
    seed: int = 0
    options: Mapping[str, Any] | None = None

    def steps(self) -> Iterator[Step]:
        """The picture as it forms. Raises `UsageError` for digits, options or a seed that there are not."""
        labels, columns = self.labels
        options, seed = self.checked, checked_seed(self.seed)
        model = self.models.load(self.name)
        if isinstance(model, HasTrajectory):
            images, total = torch.empty(0), options.get("steps") or self._default("steps")
            for number, images in enumerate(trajectory_steps(model, labels, seed=seed, **options), 1):
                of = f" of {total}" if total and number <= total else ""
                yield Step(images, columns, f"{self.name}: step {number}{of}")
        else:
            images = torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8)
            done = 0
            for batch in sample_batches(model, labels, seed=seed, batch_size=PIECE, **options):
                images[done : done + len(batch)] = batch
                done += len(batch)
                yield Step(images.clone(), columns, f"{self.name}: {done} of {len(labels)} images")
        yield Step(images, columns, f"{self.name}: {len(labels)} images", last=True)

    @property
    def classes(self) -> list[int]:
        """The classes that the digits are."""
        return digits_of(self.digits, self.models.load(self.name), "digits")[0]

    @property
    def labels(self) -> tuple[Tensor, int]:
        """The labels of the picture, and its columns: those of `mnistgen sample`."""
        digits, in_a_row = digits_of(self.digits, self.models.load(self.name), "digits")
        if self.each < 1 or len(digits) * self.each > MOST:
            raise UsageError(
                f"{len(digits)} digits, {self.each} times each, are {len(digits) * self.each} images; there are 1 to "
                f"{MOST} in a picture. `mnistgen sample --count` draws more."
            )
        y = torch.tensor(digits)
        return (y.repeat(self.each), len(digits)) if in_a_row else (y.repeat_interleave(self.each), self.each)

    @property
    def checked(self) -> dict[str, Any]:
        return self.models[self.name].checked(self.options or {})

    @property
    def command(self) -> str:
        """The command that draws the same."""
        words = ["mnistgen", "sample", self.name, "--per-digit", str(self.each), "--seed", str(self.seed)]
        if self.digits.strip():
            words += ["--digits", self.digits.strip()]
        for name, value in self.checked.items():
            if value != self._default(name):
                flag = f"--{name.replace('_', '-')}"
                words += ([flag] if value else []) if isinstance(value, bool) else [flag, str(value)]
        return shlex.join(words)

    def save(self, step: Step, folder: Path) -> tuple[Path, Path]:
        """Write a step as a picture (.png) and as labelled images (.npz), with the command in both."""
        model, about = self.models.load(self.name), {"Software": "mnistgen", "Source": self.command}
        name = f"{Path(self.name).stem}-seed{self.seed}"
        png, npz = folder / f"{name}.png", folder / f"{name}.npz"
        save_png(png, step.picture, about, scale=2)
        data = Dataset(step.images, None, 1, name, "samples")
        if model.respects_labels:
            data = Dataset(step.images, self.labels[0], model.num_classes, name, "samples", model.class_names)
        export_data(data, npz, "npz", provenance=about)
        return png, npz

    def _default(self, name: str) -> Any:
        return {option.name: option.default for option in self.models[self.name].options}.get(name)


def side_by_side(drawings: list[Iterator[Step]]) -> Iterator[list[Step | None]]:
    """The steps of several drawings, one of each in turn, until the last one is done."""
    shown: list[Step | None] = [None] * len(drawings)
    running = set(range(len(drawings)))
    while running:
        for place in sorted(running):
            step = next(drawings[place], None)
            if step is None:
                running.discard(place)
                continue
            shown[place] = step
            yield list(shown)
