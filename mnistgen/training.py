"""`fit`: one training loop for every family, as a generator that yields a Step after each step.

The model says what to minimise and in which order (`Trainable.losses`); this module owns the rest: batches, the
learning-rate schedule, autocast, gradient clipping, the averaged weights, validation, the clock, resuming and
several processes. Whoever drives the generator owns progress, logs and checkpoints.

Everything random in step k of a run with seed s is drawn from a generator seeded by (s, k), and the order of the
images by (s, epoch). So the state of a run is its weights, its optimizers and a step number, and a resumed run is
the uninterrupted one bit for bit.
"""

import copy
import dataclasses
import functools
import hashlib
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from mnistgen.building import float32
from mnistgen.contract import check_loss, check_losses, check_optimizers, check_validation_loss, optimizer_of, told
from mnistgen.data import Dataset, Images, as_dataset, to_float
from mnistgen.errors import CheckpointError, ContractError, DamagedRunError, TrainingError, UsageError
from mnistgen.limits import checked_seed, require_memory
from mnistgen.model import IMAGE_SHAPE, HasLikelihood, Loss, Trainable, uncompiled
from mnistgen.nn import computes_in_bfloat16
from mnistgen.room import require_room

WARMUP_SHARE = 0.1  # the warm-up never takes more than this share of a run
VALIDATION_BATCH = 500
_END: Any = object()
REMEDY = (
    "The checkpoints written before it are intact; try a lower learning rate (--lr), clipping (--clip-norm 1) or "
    "--precision fp32."
)
_COUNTERS = (
    "step",
    "averaged_step",
    "seconds",
    "progress",
    "best_validation",
    "best_step",
    "validations_since_best",
)
_SHAPED_AS_PARAMETERS = frozenset(
    ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "momentum", "mean", "square")
)


M = TypeVar("M", bound=Trainable)


class Part(NamedTuple):
    """Consecutive images of a dataset, of which every batch holds as many."""

    images: int
    batch: int


class Step(NamedTuple):
    """What one training step was. Tensors are scalars on the training device: `float()` waits for the device."""

    number: int  # steps done, counted from 1
    total: int | None  # steps in all; None where a time budget decides
    progress: float  # share of the run that is done, in (0, 1]
    epoch: float  # passes over the training images so far
    images: int  # images seen so far
    seconds: float  # training time so far, earlier parts of a resumed run included
    lr: float  # factor on every optimizer's peak learning rate in this step, in [0, 1]
    losses: dict[str, Tensor]  # the losses and the model's own logs, averaged over all processes
    validation: float | None  # validation loss of the averaged weights, where this step computed it
    best: bool  # whether that is the best so far
    last: bool  # whether the run ends here
    stopped: bool  # whether it ends because `stop` said so
    run: "Run"

    @property
    def ema(self) -> Trainable:
        """The averaged model in eval mode: what is sampled, scored and saved. It goes on changing."""
        return self.run.ema


@dataclass
class Run:
    """The state of a run; `state_dict` is what exact resuming needs."""

    model: Trainable
    ema: Trainable
    optimizers: dict[nn.Module, torch.optim.Optimizer]
    identity: dict[str, Any]  # what must be the same for a resumed run to be the same run
    step: int = 0
    seconds: float = 0.0
    best_validation: float = math.inf
    best_step: int = 0
    averaged_step: int = 0  # the last one whose weights are in the average
    validations_since_best: int = 0
    progress: float = 0.0
    peaks: list[list[float]] = field(init=False)  # learning rates before any schedule

    def __post_init__(self) -> None:
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers.values()]

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that it loads with `weights_only=True`.

        Raises `TrainingError` where a weight is not finite: there is nothing to go on from.
        """
        for name, tensor in self.model.state_dict().items():
            if not tensor.isfinite().all():
                raise TrainingError(f"Weight {name} is not finite after step {self.step}. {REMEDY}")
        return {
            "identity": dict(self.identity),
            **{name: getattr(self, name) for name in _COUNTERS},
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises `CheckpointError` where it belongs to another run, and `DamagedRunError` where it is not what that
        returns.
        """
        identity = state.get("identity")
        if not isinstance(identity, Mapping):
            raise DamagedRunError("The state of the run is damaged: it does not say which run it belongs to.")
        for name, mine in self.identity.items():
            theirs = identity.get(name)
            if theirs != mine:
                raise CheckpointError(
                    f"The run to resume was started with {name} {theirs!r}, and this one has {mine!r}. "
                    "Resume with the same, or start anew."
                )
        try:
            counters = {name: _counter(state[name], type(getattr(self, name))) for name in _COUNTERS}
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            for optimizer, saved in zip(self.optimizers.values(), state["optimizers"], strict=True):
                _require_state_of(optimizer, saved)
                optimizer.load_state_dict(saved)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
            raise DamagedRunError(f"The state of the run is damaged: {reason.rstrip('.')}.") from error
        for name, value in counters.items():
            setattr(self, name, value)


def _counter(value: float, kind: type) -> float:
    """A counter of a run as it is in a state. Raises `ValueError`."""
    if type(value) is kind and (value >= 0 if isinstance(value, int) else not math.isnan(float(value))):
        return value
    raise ValueError(f"a counter of the run is {value!r}")


def _require_state_of(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Raise where `saved` is not of this optimizer, as far as torch does not look.

    Which tensors an optimizer keeps is its own business; but it keeps the same ones of all parameters of a group, and
    those that are called so have the parameter's shape.
    """
    keys_of_group: dict[int, set[str]] = {}
    parameters = [(p, n) for n, group in enumerate(optimizer.param_groups) for p in group["params"]]
    for index, kept in saved["state"].items():
        parameter, group = parameters[index]
        if keys_of_group.setdefault(group, set(kept)) != set(kept):
            raise ValueError(f"an optimizer's state lacks something of parameter {index}")
        for key in _SHAPED_AS_PARAMETERS & set(kept):
            if kept[key] is not None and kept[key].shape != parameter.shape:
                raise ValueError(f"an optimizer's {key} of parameter {index} has the shape {tuple(kept[key].shape)}")


def fit(
    model: Trainable,
    data: Images,
    *,
    validation: Images | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    budget: float | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    precision: str = "auto",
    validate_every: int | None = None,
    patience: int | None = None,
    compile: bool = False,  # noqa: A002  the name of torch's own function and of the flag
    parts: Sequence[Part] | None = None,
    init: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Step, None, None]:
    """Train `model` on `data`, a `Dataset` or what `as_dataset` makes one of, yielding after each step.

    The length is `steps`, or `budget` seconds of wall time, or `epochs`, else the config's epochs; at its end the
    schedule has brought the learning rate to zero. `precision` is fp32, bf16 (autocast) or auto (bf16 where the
    device computes in it); a model may need float32 (`Trainable.training_precision`), and the validation loss of one
    with a likelihood is taken in it. Every `validate_every` steps (default: an epoch) and at the end, the averaged
    model's validation loss is taken on `validation`; `patience` such losses without a new best end the run. With
    `parts`, which divide the images and the batch alike, every batch has its share of each part, whatever their sizes.
    `init` are weights to begin with, over those that `Trainable.prepare` leaves. `state` (a `Run.state_dict()`)
    continues that run exactly. `stop` is asked after each step; a yes ends the run early.

    Under `torch.distributed` each process takes its share of every batch, so the curve is that of one process.

    Raises `DataError` (images or labels that cannot be used), `UsageError` (contradicting lengths, a batch or parts
    that do not divide), `TrainingError` (a loss or gradient that is not finite; the weights are then those of the last
    good step), `CheckpointError` (a foreign `state`).
    """
    model = uncompiled(model)
    data = as_dataset(data, name="training images")
    if validation is not None:
        validation = as_dataset(validation, name="validation images")
    if sum(length is not None for length in (epochs, steps, budget)) > 1:
        raise UsageError("Give one length of training: epochs, steps or a budget.")
    for name, value in (("epochs", epochs), ("steps", steps), ("budget", budget)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name} is {value}; it must be positive and finite.")
    for name, number in (("validate_every", validate_every), ("patience", patience)):
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}; it must be at least 1.")
    if data.num_classes > model.num_classes:
        raise UsageError(
            f"{data.name} has {data.num_classes} classes and the model was built for {model.num_classes}; "
            f"build it with num_classes={data.num_classes}."
        )
    seed = checked_seed(seed)
    if model.needs_labels:
        data.require_labels(f"to train {type(model).__name__}")
    where = resolve_device(device)
    config = model.config
    batch = config.batch_size
    total = steps
    if steps is None and budget is None:
        epochs = config.epochs if epochs is None else epochs
        if not math.isfinite(epochs * len(data)):
            raise UsageError(f"epochs is {epochs}; it must be smaller.")
        total = math.ceil(epochs * len(data) / batch)
    every = validate_every or max(1, round(len(data) / batch))
    share = _Share.of(batch)
    # What the network makes of the images comes on top; that is measured below, with a few of them.
    require_memory(4 * math.prod(IMAGE_SHAPE) * batch // share.size, f"A batch of {batch} images")
    order: _Mixture | _Order = _Order(len(data), seed, batch)
    if parts:
        order = _Mixture(_checked(parts, len(data), batch, share), seed)

    model.to(where).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.trained_classes, model.class_names = data.classes, data.class_names
    if state is None:
        with told("prepare()", type(model)), float32():
            model.prepare(data.images)
        if init is not None:
            model.load_state_dict({**model.state_dict(), **init})
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    identity = _identity(model, data, validation, total, budget, seed, precision, where)
    identity["parts"] = [list(part) for part in parts] if parts else None
    with told("optimizers()", type(model)):
        optimizers = model.optimizers()
    run = Run(model, ema, check_optimizers(optimizers, model), identity)
    if state is not None:
        run.load_state_dict(state)
    share.agree(model)
    if compile:
        for network in model.children():
            network.compile()
    stepper = _Stepper(run, _precision_of(model, where, precision), where, share)
    images, labels = data.images.to(where), data.y.to(where)
    require_room(batch // share.size, where, f"A batch of {batch} images", lambda n: stepper.try_on(images, labels, n))
    clock = _Clock(run.seconds, share if budget is not None else _Share(0, 1))
    length = _Length(total, budget, len(validation) / batch if validation is not None else 0)

    while run.progress < 1 and not (patience is not None and run.validations_since_best >= patience):
        # A budget that runs out between two steps leaves one to take, or nobody would be told that it was the last.
        progress = length.progress(run.step, began := clock.read())
        lr = _schedule(config.schedule, progress, run.step + 1, config.warmup_steps)
        rows = share.rows(order.batch(run.step)).to(where)
        x = to_float(images.index_select(0, rows)).contiguous(memory_format=torch.channels_last)
        losses = stepper.step(x, labels.index_select(0, rows), lr, seed)
        run.step += 1
        wants_stop = share.any(stop())
        run.seconds = clock.read()
        length.took(run.seconds - began)
        run.progress = length.progress(run.step, run.seconds)
        done = run.progress >= 1
        stepper.average(done=done)
        loss, best = None, False
        if validation is not None and (run.step % every == 0 or done):
            began = clock.read()
            loss = stepper.validate(validation, seed)
            length.took_to_validate(clock.read() - began)
            if loss is not None:
                best = loss < run.best_validation
                run.validations_since_best = 0 if best else run.validations_since_best + 1
                if best:
                    run.best_validation, run.best_step = loss, run.step
        last = done or wants_stop or (patience is not None and run.validations_since_best >= patience)
        images_seen = run.step * batch
        yield Step(
            number=run.step,
            total=total,
            progress=run.progress,
            epoch=images_seen / len(data),
            images=images_seen,
            seconds=run.seconds,
            lr=lr,
            losses=losses,
            validation=loss,
            best=best,
            last=last,
            stopped=wants_stop and not done,
            run=run,
        )
        if last:
            return


def train(model: M, data: Images, **options: Any) -> M:
    """Train to the end of the run and return the averaged model, in eval mode: what is to be sampled, scored and saved.

    `options` are those of `fit`, which yields after each step. Raises as `fit`, and `UsageError` where a `state` is
    that of a run which has ended.
    """
    last = deque(fit(model, data, **options), maxlen=1)
    if not last:
        raise UsageError("This run is finished already; there is nothing to resume.")
    return last[0].ema  # type: ignore[return-value]


def resolve_device(name: str | torch.device) -> torch.device:
    """The device called `name`; auto is the first of cuda, mps and cpu that is there. Raises `UsageError`."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # `meta` has room for anything, and no numbers
    except (NotImplementedError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"Device {str(name)!r} cannot be used here: {reason}. Try --device cpu, or auto.") from error
    return device


def autocast_dtype(device: torch.device, precision: str) -> torch.dtype | None:
    """bfloat16, or None for plain float32. auto: bfloat16 where the hardware multiplies in it."""
    if precision not in ("auto", "fp32", "bf16"):
        raise UsageError(f"There is no precision {precision!r}; it is auto, fp32 or bf16.")
    if precision == "auto":
        return torch.bfloat16 if computes_in_bfloat16(device) else None
    return torch.bfloat16 if precision == "bf16" else None


def _precision_of(model: Trainable, device: torch.device, precision: str) -> torch.dtype | None:
    """`autocast_dtype`, and plain float32 for a model that needs it. Raises `UsageError` where bf16 is asked of it."""
    dtype = autocast_dtype(device, precision)
    if dtype is None or model.training_precision == "any":
        return dtype
    if precision == "bf16":
        raise UsageError(f"precision is bf16, and {type(model).__name__} needs float32; leave it out.")
    return None


def _identity(
    model: Trainable,
    data: Dataset,
    validation: Dataset | None,
    total: int | None,
    budget: float | None,
    seed: int,
    precision: str,
    device: torch.device,
) -> dict[str, Any]:
    dtype = _precision_of(model, device, precision)
    return {
        "model": type(model).__qualname__,
        **dataclasses.asdict(model.config),
        "num_classes": model.num_classes,
        "seed": seed,
        "steps": total,
        "budget": budget,
        "dataset hash": data.hash,
        "validation hash": validation.hash if validation is not None else "",
        "precision": "bf16" if dtype is torch.bfloat16 else "fp32",
    }


class _Length:
    """How much of a run is done: steps of `total`, or seconds of `budget`.

    A budget has to hold for the validation at the end, too, and for the step it runs out in. What validating takes is
    known once it has been done; until then it is taken for a third of as many images' steps.
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


def _schedule(kind: str, progress: float, step: int, warmup_steps: int) -> float:
    """The factor on the peak learning rate in `step` (from 1), `progress` in [0, 1] of the run being done."""
    warmup = max(step / warmup_steps if warmup_steps else 1.0, progress / WARMUP_SHARE)
    decay = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}[kind]
    return min(1.0, warmup) * decay


@contextmanager
def _seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Draw from (seed, step) inside, and leave the caller's random state as it was.

    The generators are seeded one by one: torch.manual_seed looks after every kind of device, and takes as long as a
    tenth of a small model's step.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    before = [generator.get_state() for generator in generators]
    number = int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest(), "little") >> 1
    try:
        for generator in generators:
            generator.manual_seed(number)
        with float32():
            yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def _checked(parts: Sequence[Part], n: int, batch: int, share: "_Share") -> Sequence[Part]:
    """The parts, or a `UsageError` where they do not make up the images and the batch."""
    images, rows = (sum(sizes) for sizes in zip(*parts, strict=True))
    if images != n or rows != batch or min(part.batch for part in parts) < 1:
        raise UsageError(
            f"The parts have {images} images and {rows} in a batch, and there are {n} images in batches of {batch}; "
            "each part needs at least one image of a batch."
        )
    if share.size > 1:
        raise UsageError("A batch of several parts is trained on by one process; start it without torchrun.")
    return parts


class _Order:
    """Batches as consecutive pieces of one endless row of shuffled epochs: always full, every image in turn."""

    def __init__(self, n: int, seed: int, batch: int, part: int = 0) -> None:
        if n == 0:
            raise UsageError("There are no images to train on.")
        self.n, self.batch_size = n, batch
        self._seed = (seed, part) if part else (seed,)  # the first part's order is that of a run without parts
        self._epochs: dict[int, Tensor] = {}

    def batch(self, step: int) -> Tensor:
        """Indices of the images of `step` (from 0), (batch,) int64."""
        start, end = step * self.batch_size, (step + 1) * self.batch_size
        pieces = []
        for epoch in range(start // self.n, (end - 1) // self.n + 1):
            offset = epoch * self.n
            pieces.append(self._epoch(epoch)[max(0, start - offset) : min(self.n, end - offset)])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            for old in [key for key in self._epochs if key < epoch - 1]:
                del self._epochs[old]
            order = np.random.default_rng((*self._seed, epoch)).permutation(self.n)
            self._epochs[epoch] = torch.from_numpy(order)
        return self._epochs[epoch]


class _Mixture:
    """Batches of several parts, each of which goes through its own images in turn."""

    def __init__(self, parts: Sequence[Part], seed: int) -> None:
        self._orders = [_Order(n, seed, batch, number) for number, (n, batch) in enumerate(parts)]
        self._first = [0, *accumulate(n for n, _ in parts)]

    def batch(self, step: int) -> Tensor:
        """Indices of the images of `step` (from 0), part by part, (batch,) int64."""
        return torch.cat([order.batch(step) + first for order, first in zip(self._orders, self._first, strict=False)])


class _Stepper:
    """One optimisation step, and one validation, of a run."""

    def __init__(self, run: Run, dtype: torch.dtype | None, device: torch.device, share: "_Share") -> None:
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
        with _seeded(0, 0, self.device):
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
        with _seeded(seed, self.run.step, self.device), self.share.randomness(len(y)):
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
            with told("validation_loss()", cls), _seeded(seed, -1 - number, self.device), autocast:
                loss = self.run.ema.validation_loss(x, y)
            check_validation_loss(loss)
            if loss is None:
                return None
            sums += torch.tensor([float(loss) * len(rows), len(rows)], dtype=torch.float64)
        sums = self.share.sum(sums)
        return float(sums[0] / sums[1])


class _Share:
    """This process's part of the work; with one process, all of it.

    The gradients of a loss are averaged in one flattened all-reduce that carries its logs along, because a loss
    that is not a module's `forward` cannot be wrapped in DistributedDataParallel.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def of(cls, batch: int) -> "_Share":
        if not (dist.is_available() and dist.is_initialized()):
            return cls(0, 1)
        size = dist.get_world_size()
        if batch % size:
            raise UsageError(f"A batch of {batch} images cannot be shared equally by {size} processes.")
        return cls(dist.get_rank(), size)

    def rows(self, rows: Tensor) -> Tensor:
        return rows.chunk(self.size)[self.rank] if self.size > 1 else rows

    def agree(self, model: nn.Module) -> None:
        """Start from the first process's weights."""
        if self.size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.data, 0)

    def average(self, parameters: list[nn.Parameter], logs: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.size == 1:
            return logs
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([piece.reshape(-1).float() for piece in (*gradients, *logs.values())])
        dist.all_reduce(flat)
        *means, scalars = (flat / self.size).split([*(gradient.numel() for gradient in gradients), len(logs)])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view(gradient.shape))
        return dict(zip(logs, scalars.unbind(), strict=True))

    def sum(self, values: Tensor) -> Tensor:
        if self.size > 1:
            values = self._on_backend(values)
            dist.all_reduce(values)
        return values.cpu()

    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor([float(flag)]))[0] > 0) if self.size > 1 else flag

    def randomness(self, batch: int) -> AbstractContextManager[Any]:
        return _WholeBatch(batch, self.rank, self.size) if self.size > 1 else nullcontext()

    @staticmethod
    def _on_backend(values: Tensor) -> Tensor:
        # Time and sums are float64 on the CPU; nccl only moves what is on the GPU.
        return values.cuda() if dist.get_backend() == "nccl" else values


class _Clock:
    """Wall time of the run in seconds; the first process's on all of them, because the schedule hangs on it."""

    def __init__(self, before: float, share: _Share) -> None:
        self._zero = time.monotonic() - before
        self._share = share

    def read(self) -> float:
        elapsed = time.monotonic() - self._zero
        if self._share.size == 1:
            return elapsed
        return float(self._share.sum(torch.tensor([elapsed * (self._share.rank == 0)], dtype=torch.float64))[0])


class _WholeBatch(TorchDispatchMode):
    """Inside, a random tensor with one row an image is drawn for the whole batch, and this process's rows are kept.

    All processes draw from the same seed, so together they see the noise that one process would see, and a run on
    several has the loss curve of a run on one. It stands where torch's operators meet, below dropout, attention and
    every other function made of them. Raises `ContractError` for an operator whose rows cannot be had one by one.
    """

    # The rows of dropout need be no images: attention has heads, and a sequence may come first. A CPU's is bernoulli_.
    _DROPOUT = frozenset(("native_dropout", "_fused_dropout", "bernoulli_"))
    _FILLS = frozenset(("normal", "uniform", "bernoulli", "exponential", "cauchy", "log_normal", "geometric", "random"))
    _MAKES = frozenset(
        ("rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "multinomial", "normal_functional")
    )
    _BY_ROW = _DROPOUT | _MAKES | _FILLS | {f"{name}_" for name in _FILLS}

    def __init__(self, batch: int, rank: int, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch, self.rank, self.size = batch, rank, size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _is_random(func):
            return func(*args, **kwargs)
        names = [argument.name for argument in func._schema.arguments]
        name, given = func._schema.name.removeprefix("aten::"), {**dict(zip(names, args, strict=False)), **kwargs}
        rows = len(args[0]) if name in self._DROPOUT and args[0].ndim else self.batch
        whole = {key: self._grown(key, value, rows, given) for key, value in given.items()}
        if _is_off(name, given) or all(whole[key] is value for key, value in given.items()):
            return func(*args, **kwargs)  # what no image has for itself is the same everywhere
        if name not in self._BY_ROW or "out" in given or _is_permutation(name, given):
            raise ContractError(
                f"losses() calls torch's {name}, whose random numbers cannot be drawn image by image, as several "
                "processes need them; use others (those of torch.rand, say), or train in one process."
            )
        drawn = func(*(whole[key] for key in names[: len(args)]), **{key: whole[key] for key in kwargs})
        mine = slice(self.rank * rows, (self.rank + 1) * rows)
        return args[0].copy_(drawn[mine]) if name.endswith("_") else tree_map(lambda x: x[mine], drawn)

    def _grown(self, key: str, value: Any, rows: int, given: Mapping[str, Any]) -> Any:
        """An argument for the whole batch where it is one for this process's: a size, a count, or a tensor of rows."""
        one_row = "num_samples" in given and given["self"].ndim == 1  # of probabilities, from which each image draws
        if isinstance(value, Tensor):
            # Each process fills the others' rows with its own, since probabilities of zero are no probabilities.
            of_rows = value.ndim > 0 and len(value) == rows and not one_row
            return _repeated(value.detach(), self.size) if of_rows else value
        if key == "size" and value and value[0] == rows:
            return [self.size * rows, *value[1:]]
        return self.size * rows if value == rows and (key == "n" or (key == "num_samples" and one_row)) else value


def _repeated(x: Tensor, times: int) -> Tensor:
    """`x` several times in dimension 0, in memory as `x` is, since that is the order in which it is filled."""
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    laid_out = torch.cat([x.permute(order)] * times, dim=order.index(0))
    return laid_out.permute([order.index(dim) for dim in range(x.ndim)])


@functools.cache
def _is_random(operator: Any) -> bool:
    takes_generator = any(str(argument.type) == "Optional[Generator]" for argument in operator._schema.arguments)
    return takes_generator or torch.Tag.nondeterministic_seeded in operator.tags


def _is_off(name: str, given: Mapping[str, Any]) -> bool:
    """Whether dropout, of itself, of attention or of a recurrent network, is switched off in this call."""
    p = [given.get(key) for key in ("dropout_p", "dropout", *(["p"] if "dropout" in name else []))]
    return 0 in [value for value in p if value is not None] or False in (given.get("train"), given.get("training"))


def _is_permutation(name: str, given: Mapping[str, Any]) -> bool:
    """Whether what an image gets hangs on what the others got: draws without replacement from one row."""
    return name == "multinomial" and given["self"].ndim == 1 and not given.get("replacement", False)


@contextmanager
def process_group() -> Iterator[int]:
    """Inside, processes started by `torchrun` are joined (nccl on GPUs, gloo elsewhere); yields this one's rank.

    Outside `torchrun` it yields 0 and does nothing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()
