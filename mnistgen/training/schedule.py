"""Length and progress of a run, and the learning rate that goes with them."""

import math
import time

import torch

from mnistgen.training.distributed import Share

WARMUP_SHARE = 0.1  # the warm-up never takes more than this share of a run


class Length:
    """The share of a run that is done: steps of `total`, or seconds of `budget`.

    A budget has to hold for the validation at the end, too, and for the step it runs out in. What validating takes is
    known once it has been done; until then it is estimated as a third of as many images' steps.
    """

    def __init__(self, total: int | None, budget: float | None, batches_to_validate: float) -> None:
        self.total, self.budget, self.batches = total, budget, batches_to_validate
        self.steps, self.step_seconds, self.validation_seconds = 0, 0.0, 0.0
        self.done = 0.0  # never less than before, though what is still to be done comes out longer

    def progress(self, step: int, seconds: float) -> float:
        if self.total is not None:
            return min(1.0, step / self.total)
        assert self.budget is not None
        to_come = self.validation_seconds or self.batches * self.step_seconds / 3
        usable = self.budget - min(self.budget / 2, to_come + self.step_seconds / 2)
        self.done = max(self.done, min(1.0, seconds / usable))
        return self.done

    def took(self, seconds: float) -> None:
        self.steps += 1
        if self.steps > 1:  # the first one takes longer than any other: much is made when it is first asked for
            self.step_seconds = min(self.step_seconds or seconds, seconds)

    def took_to_validate(self, seconds: float) -> None:
        self.validation_seconds = seconds


def schedule(kind: str, progress: float, step: int, warmup_steps: int) -> float:
    """The factor on the peak learning rate in `step` (from 1), `progress` in [0, 1] of the run being done."""
    warmup = max(step / warmup_steps if warmup_steps else 1.0, progress / WARMUP_SHARE)
    decay = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}[kind]
    return min(1.0, warmup) * decay


class Clock:
    """Wall time of the run in seconds; the first process's on all of them, because the schedule hangs on it."""

    def __init__(self, before: float, share: Share) -> None:
        self._zero = time.monotonic() - before
        self._share = share

    def read(self) -> float:
        elapsed = time.monotonic() - self._zero
        if self._share.size == 1:
            return elapsed
        return float(self._share.sum(torch.tensor([elapsed * (self._share.rank == 0)], dtype=torch.float64))[0])
