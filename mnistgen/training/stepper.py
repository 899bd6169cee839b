"""One optimisation step, the moving average of the weights, and one validation."""

import copy
import itertools
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mnistgen.contract import check_loss, check_losses, check_validation_loss, optimizer_of, told
from mnistgen.data import Dataset, to_float
from mnistgen.errors import TrainingError
from mnistgen.model import HasLikelihood, Loss
from mnistgen.training.device import seeded
from mnistgen.training.distributed import Share
from mnistgen.training.run import REMEDY, Run

VALIDATION_BATCH = 500
_END: Any = object()


class Stepper:
    """One optimisation step, and one validation, of a run."""

    def __init__(self, run: Run, dtype: torch.dtype | None, device: torch.device, share: "Share") -> None:
        self.run, self.dtype, self.device, self.share = run, dtype, device, share
        self._autocast: AbstractContextManager[Any] = torch.autocast(device.type, dtype) if dtype else nullcontext()
        self._modules = {module: name or "loss" for name, module in run.model.named_modules()}
        self._parameters = {module: [p for p in module.parameters() if p.requires_grad] for module in run.optimizers}
        self._averaged: tuple[list[Tensor], list[Tensor]] = (list(run.ema.parameters()), list(run.model.parameters()))
        self._buffers = list(zip(run.ema.buffers(), run.model.buffers(), strict=True))
        self._checked = False  # whether the losses of a step have been held to the contract

    def try_on(self, images: Tensor, labels: Tensor, count: int) -> None:
        """Take the losses of `count` of the images, and their gradients, on a copy of the model."""
        model, cls = copy.deepcopy(self.run.model).train(), type(self.run.model)
        rows = torch.arange(count, device=self.device) % len(images)
        losses = check_losses(model.losses(to_float(images[rows]), labels[rows]))
        with seeded(0, 0, self.device):
            while True:
                with told("losses()", cls), self._autocast:
                    loss = next(losses, _END)
                if loss is _END:
                    return
                check_loss(loss, f"A loss of {cls.__name__}", finite=False)
                loss.value.backward(inputs=[p for p in loss.module.parameters() if p.requires_grad])

    def step(self, x: Tensor, y: Tensor, lr: float, seed: int) -> dict[str, Tensor]:
        """Minimise each loss once, in the model's order; return the losses and logs."""
        for optimizer, peaks in zip(self.run.optimizers.values(), self.run.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * lr
        if not self.run.model.training:
            self.run.model.train()
        logs: dict[str, Tensor] = {}
        cls, losses = type(self.run.model), self._losses(x, y)
        with seeded(seed, self.run.step, self.device), self.share.randomness(len(y)):
            for number in itertools.count(1):
                with told("losses()", cls), self._autocast:
                    loss = next(losses, _END)
                if loss is _END:
                    break
                try:
                    if not self._checked:
                        check_loss(loss, f"Loss {number} of {cls.__name__}", finite=False)
                    with told(f"The update by loss {number}", cls):
                        logs |= self._minimise(loss)
                except Exception:
                    check_loss(loss, f"Loss {number} of {cls.__name__}", finite=False)  # a later step, maybe at fault
                    raise
        self._checked = True
        return logs

    def _losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        yield from check_losses(self.run.model.losses(x, y))

    def _minimise(self, loss: Loss) -> dict[str, Tensor]:
        optimizer = optimizer_of(self.run.optimizers, loss)
        name, parameters = self._modules.get(loss.module, "loss"), self._parameters[loss.module]
        optimizer.zero_grad()
        # Naming the parameters keeps gradients out of the rest; where there is no rest, not naming them is faster.
        loss.value.backward(inputs=None if loss.module is self.run.model else parameters)
        logs = {name: loss.value.detach(), **{key: value.detach() for key, value in loss.logs.items()}}
        logs = self.share.average(parameters, logs)
        # Before the optimizer's step, so that the weights stay those of the last good step.
        self._require_finite(f"Loss {name!r}", logs[name])
        if clip := self.run.model.config.clip_norm:
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self._require_finite(f"The gradient of loss {name!r}", norm)
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        optimizer.step()
        return logs

    def _require_finite(self, what: str, value: Tensor) -> None:
        if not math.isfinite(value.item()):
            raise TrainingError(f"{what} is not finite at step {self.run.step + 1}. {REMEDY}")

    @torch.no_grad()
    def average(self, *, done: bool) -> None:
        """Exponential moving average of the weights; the buffers (counters, running statistics) are taken as they are.

        After step t the decay of one step is d = min(ema_decay, (1 + t) / (10 + t)). The average takes in the weights
        after every k-th step with d^k, where k is at most a twelfth of the 1 / (1 - d) steps it reaches back, and at
        most 8: for a small model, an average after each step costs a twentieth of the step.
        """
        t = self.run.step
        decay = min(self.run.model.config.ema_decay, (1 + t) / (10 + t))
        since = t - self.run.averaged_step
        if done or since >= min(8, 1 / (1 - decay) // 12):
            torch._foreach_lerp_(*self._averaged, 1 - decay**since)
            for averaged, buffer in self._buffers:
                averaged.copy_(buffer)
            self.run.averaged_step = t

    @torch.no_grad()
    def validate(self, data: Dataset, seed: int) -> float | None:
        """Mean validation loss of the averaged model, with the same noise each time; None where it has none."""
        sums = torch.zeros(2, dtype=torch.float64)
        chunks, cls = torch.arange(len(data)).split(VALIDATION_BATCH), type(self.run.model)
        in_nats = isinstance(self.run.ema, HasLikelihood) and self.run.ema.likelihood_precision != "any"
        autocast = nullcontext() if in_nats else self._autocast
        for number, rows in enumerate(chunks):
            if number % self.share.size != self.share.rank:
                continue
            x = to_float(data.images[rows].to(self.device)).contiguous(memory_format=torch.channels_last)
            y = data.y[rows].to(self.device)
            with told("validation_loss()", cls), seeded(seed, -1 - number, self.device), autocast:
                loss = self.run.ema.validation_loss(x, y)
            check_validation_loss(loss)
            if loss is None:
                return None
            sums += torch.tensor([float(loss) * len(rows), len(rows)], dtype=torch.float64)
        sums = self.share.sum(sums)
        return float(sums[0] / sums[1])
