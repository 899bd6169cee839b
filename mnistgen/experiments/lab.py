"""What the cells of a study work with: the data, the device, the models, and a stop-watch."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from mnistgen.data import Dataset
from mnistgen.errors import UsageError
from mnistgen.experiments.subsets import Subsets, seed_of
from mnistgen.limits import checked_seed
from mnistgen.model import GenerativeModel, Trainable
from mnistgen.scoring import Scorer
from mnistgen.training import Part, autocast_dtype, fit

Say = Callable[[float], None]  # the share of a cell that is done
Network = TypeVar("Network", bound=Trainable)


@dataclass
class Work:
    """How much of what a cell has done, and in how many seconds."""

    amounts: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str, amount: float) -> Iterator[None]:
        """Inside, so many units of a part are done and timed."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.amounts[name] = self.amounts.get(name, 0.0) + amount


class Lab:
    """A study's data, folder and device.

    `test` is looked at by the last line of a cell that classifies, and by nothing else.
    """

    def __init__(
        self,
        train: Dataset,
        test: Dataset,
        models: Mapping[str, type[GenerativeModel]],
        *,
        seed: int,
        device: torch.device,
        precision: str = "auto",
        scorer: Scorer | None = None,
    ) -> None:
        """`scorer`: what looks at the generations of a loop."""
        if train.num_classes != test.num_classes:
            raise UsageError(
                f"{train.name} has {train.num_classes} classes to train on and {test.num_classes} to test with; take "
                "both splits from one dataset."
            )
        for name, model in models.items():
            if not model.conditional:
                raise UsageError(
                    f"{name} draws images without regard to labels, so a classifier cannot learn from them. Choose a "
                    "conditional model."
                )
        self.train, self.test, self.models = train, test, dict(models)
        self.seed, self.device, self.precision, self.scorer = checked_seed(seed), device, precision, scorer
        self._subsets: dict[int, Subsets] = {}

    @property
    def frame(self) -> dict[str, Any]:
        """What all cells have in common, and what is part of every specification."""
        dtype = autocast_dtype(self.device, self.precision)
        return {
            "dataset": self.train.name,
            "train": self.train.hash,
            "test": self.test.hash,
            "seed": self.seed,
            "precision": "bf16" if dtype is torch.bfloat16 else "fp32",
        }

    def subsets(self, repetition: int) -> Subsets:
        """The subsets of one repetition."""
        if repetition not in self._subsets:
            self._subsets[repetition] = Subsets(self.train, seed_of(self.seed, repetition, "subsets"))
        return self._subsets[repetition]

    def fit(
        self,
        model: Network,
        data: Dataset,
        *,
        steps: int,
        seed: int,
        parts: Sequence[Part] | None = None,
        say: Say | None = None,
    ) -> Network:
        """Train to the end and return the averaged model: no step is chosen, and nothing is validated."""
        run = fit(model, data, steps=steps, seed=seed, device=self.device, precision=self.precision, parts=parts)
        for step in run:
            if say is not None:
                say(step.progress)
        ema = step.ema
        assert isinstance(ema, type(model))
        return ema
