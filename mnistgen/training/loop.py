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
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mnistgen.building import float32
from mnistgen.contract import check_optimizers, told
from mnistgen.data import Dataset, Images, as_dataset, to_float
from mnistgen.errors import UsageError
from mnistgen.limits import checked_seed, require_memory
from mnistgen.model import IMAGE_SHAPE, Trainable, uncompiled
from mnistgen.room import require_room
from mnistgen.training.batches import Mixture, Order, Part, checked_parts
from mnistgen.training.device import precision_of, resolve_device
from mnistgen.training.distributed import Share
from mnistgen.training.run import Run, Step
from mnistgen.training.schedule import Clock, Length, schedule
from mnistgen.training.stepper import Stepper

M = TypeVar("M", bound=Trainable)


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
    _check_lengths(epochs, steps, budget, validate_every, patience)
    _check_labels(model, data)
    seed, where = checked_seed(seed), resolve_device(device)
    batch = model.config.batch_size
    total = _total_steps(model, len(data), epochs) if steps is None and budget is None else steps
    every = validate_every or max(1, round(len(data) / batch))
    share = Share.of(batch)
    # What the network makes of the images comes on top; that is measured below, with a few of them.
    require_memory(4 * math.prod(IMAGE_SHAPE) * batch // share.size, f"A batch of {batch} images")
    order: Mixture | Order = Order(len(data), seed, batch)
    if parts:
        order = Mixture(checked_parts(parts, len(data), batch, share), seed)
    identity = _identity(model, data, validation, total, budget, seed, precision, where)
    identity["parts"] = [list(part) for part in parts] if parts else None
    run = _begin(model.to(where), data, identity, init, state)
    share.agree(model)
    if compile:
        for network in model.children():
            network.compile()
    stepper = Stepper(run, precision_of(model, where, precision), where, share)
    images, labels = data.images.to(where), data.y.to(where)
    require_room(batch // share.size, where, f"A batch of {batch} images", lambda n: stepper.try_on(images, labels, n))
    clock = Clock(run.seconds, share if budget is not None else Share(0, 1))
    length = Length(total, budget, len(validation) / batch if validation is not None else 0)

    while run.progress < 1 and not run.is_out_of(patience):
        # A budget that runs out between two steps leaves one to take, or nobody would be told that it was the last.
        progress = length.progress(run.step, began := clock.read())
        lr = schedule(model.config.schedule, progress, run.step + 1, model.config.warmup_steps)
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
        loss = None
        if validation is not None and (run.step % every == 0 or done):
            began = clock.read()
            loss = stepper.validate(validation, seed)
            length.took_to_validate(clock.read() - began)
        best = run.validated(loss)
        last = done or wants_stop or run.is_out_of(patience)
        yield Step(
            number=run.step,
            total=total,
            progress=run.progress,
            epoch=run.step * batch / len(data),
            images=run.step * batch,
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


def train(model: M, data: Images, *, progress: Callable[[float], None] = lambda _: None, **options: Any) -> M:
    """Train to the end of the run and return the averaged model, in eval mode: what is to be sampled, scored and saved.

    `progress` gets the share of the run that is done after each step. `options` are those of `fit`. Raises as `fit`,
    and `UsageError` where a `state` is that of a run which has ended.
    """
    last: Step | None = None
    for last in fit(model, data, **options):
        progress(last.progress)
    if last is None:
        raise UsageError("This run is finished already; there is nothing to resume.")
    return last.ema  # type: ignore[return-value]


def _check_lengths(
    epochs: float | None, steps: int | None, budget: float | None, validate_every: int | None, patience: int | None
) -> None:
    """Raise `UsageError` where lengths contradict each other, or a number is out of range."""
    lengths = {"epochs": epochs, "steps": steps, "budget": budget}
    if sum(length is not None for length in lengths.values()) > 1:
        raise UsageError("Give one length of training: epochs, steps or a budget.")
    for name, value in lengths.items():
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name} is {value}; it must be positive and finite.")
    for name, number in (("validate_every", validate_every), ("patience", patience)):
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}; it must be at least 1.")


def _check_labels(model: Trainable, data: Dataset) -> None:
    """Raise `UsageError` where the data have more classes than the model, `DataError` where they lack its labels."""
    if data.num_classes > model.num_classes:
        raise UsageError(
            f"{data.name} has {data.num_classes} classes and the model was built for {model.num_classes}; "
            f"build it with num_classes={data.num_classes}."
        )
    if model.needs_labels:
        data.require_labels(f"to train {type(model).__name__}")


def _total_steps(model: Trainable, n: int, epochs: float | None) -> int:
    """The steps of passes over n images, by default as many as the model's config has."""
    epochs = model.config.epochs if epochs is None else epochs
    if not math.isfinite(epochs * n):
        raise UsageError(f"epochs is {epochs}; it must be smaller.")
    return math.ceil(epochs * n / model.config.batch_size)


def _begin(
    model: Trainable,
    data: Dataset,
    identity: dict[str, Any],
    init: Mapping[str, Tensor] | None,
    state: Mapping[str, Any] | None,
) -> Run:
    """Prepare a model, with its average and its optimizers, for its first step, or for the next one of `state`."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.trained_classes, model.class_names = data.classes, data.class_names
    if state is None:
        with told("prepare()", type(model)), float32():
            model.prepare(data.images)
        if init is not None:
            model.load_state_dict({**model.state_dict(), **init})
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    with told("optimizers()", type(model)):
        optimizers = model.optimizers()
    run = Run(model, ema, check_optimizers(optimizers, model), identity)
    if state is not None:
        run.load_state_dict(state)
    return run


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
    dtype = precision_of(model, device, precision)
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
