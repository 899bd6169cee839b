"""One training run, as `train` and `evaluator train` have it, from flags to files, with progress, interrupts and
resuming."""

import dataclasses
import json
import math
import re
import shlex
import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import torch.distributed as dist
import tyro
from torch import Tensor

from mnistgen.building import build
from mnistgen.checkpoint import WEIGHTS, load_state, save_state
from mnistgen.cli.arguments import Reading, parse
from mnistgen.cli.run_folder import BEST, KEPT, LOG, MANIFEST, OPTIONS, STATE, RunFolder, read_object
from mnistgen.cli.tensorboard import TensorBoard
from mnistgen.console import Display, notes, numbers
from mnistgen.curves import read_log
from mnistgen.data import (
    DIGITS,
    Dataset,
    dataset_name,
    load_training_data,
    load_validation_data,
    train_validation_split,
)
from mnistgen.data.loading import LEFT_OUT
from mnistgen.errors import CheckpointError, ContractError, DamagedRunError, MnistgenError, UsageError
from mnistgen.fields import checked, types_of
from mnistgen.files import atomic_file
from mnistgen.model import BaseConfig, Trainable
from mnistgen.text import docstring
from mnistgen.training import Step, fit

LARGEST = 10**12  # steps and seconds that a flag may say
WINDOW = 50  # steps, at most, that a mean of the losses is over


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Reading):
    """The flags of `train` that every model has."""

    data: str = ""
    """Dataset name (see `mnistgen data --help`) or a path: IDX, CSV, NPZ, or a folder of images by class. Default:
    mnist, or the synthetic `digits` where mnist is neither on disk nor to be downloaded."""
    validation: int | None = None
    """Training images held out for the validation loss; default: the validation part of the data where they have one,
    else a tenth, at most 5000."""
    steps: int | None = None
    """Length in steps, instead of --epochs."""
    budget: str | None = None
    """Length in wall time, such as 90s, 5m or 1h30m, instead of --epochs; the schedule fits itself to it.
    The pictures at the end come on top."""
    out: Path | None = None
    """Folder of the run: its checkpoint, log and pictures; default: checkpoints/MODEL-DATASET."""
    samples: Path | None = None
    """Folder of the pictures; default: that of the run."""
    resume: bool = False
    """Continue an interrupted run exactly, with the flags it was started with."""
    overwrite: bool = False
    """Replace an existing checkpoint."""
    patience: int | None = None
    """Stop after this many validations without a new best, and keep the best."""
    validate_every: int | None = None
    """Steps between validations; default: an epoch."""
    save_every: float = 30.0
    """Seconds between checkpoints; 0 writes one after each step."""
    keep_every: int | None = None
    """Steps between copies of the checkpoint that stay beside it, step-00005000.safetensors; default: none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic; auto: bfloat16 where the hardware computes in it."""
    logger: Literal["none", "tensorboard"] = "none"
    """Where the log goes beside log.jsonl; tensorboard: events in the folder of the run (needs the extra
    `tensorboard`)."""
    compile: bool = False
    """Compile the model's networks (needs a C++ compiler; slow to start, faster later)."""
    quiet: bool = False
    """No progress and no pictures in the terminal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "patience", "validate_every", "keep_every"):
            self.require(name, least=1)
        for name in ("validation", "save_every"):
            self.require(name, least=0)
        if self.budget is not None:
            parse_duration(self.budget)
        if sum(length is not None for length in (self.steps, self.budget)) > 1:
            raise UsageError("Give one length of training: --steps, --budget or --epochs.")
        if self.resume and self.overwrite:
            raise UsageError("Give --resume to continue the run that is there, or --overwrite to replace it; not both.")
        if self.out == Path("-"):
            raise UsageError("--out -: a run is a folder and cannot go to standard output. Give the path of one.")

    def require(self, name: str, *, least: int) -> None:
        """Raise `UsageError` where the flag of this field has a number that is smaller, or not finite."""
        value = getattr(self, name)
        if value is not None and not least <= value <= LARGEST:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be from {least} to {LARGEST}.")


class Outcome(NamedTuple):
    """The result of a run."""

    step: int
    progress: float
    best_validation: float
    best_step: int  # 0: there was none


def train(kind: type["RunWriter"], name: str, cls: type[Trainable], flags: list[str], prog: str, rank: int) -> int:
    """Train `name` and leave behind what `kind` says; return the exit code."""
    started = time.monotonic()
    options, config = _parse(kind, name, cls, flags, prog)
    data, part, state = None, None, None
    path = options.out
    if path is None and options.resume and options.data:  # how it is to be read, the run that is resumed knows
        path = kind.home / f"{name}-{dataset_name(options.data, data_dir=options.data_dir)}"
    elif path is None:
        options, data, part = _data(options, rank)
        path = kind.home / f"{name}-{data.name}"
    folder = RunFolder(path)
    with ExitStack() as held:
        if options.resume:
            _lock_to_resume(folder, held, rank)
            with _or_way_on(kind, name, path):
                source = options.data, options.how, options.validation
                options, config = _resumed(kind, name, cls, flags, prog, path)
                state = load_state(path / STATE)
            data = data if (options.data, options.how, options.validation) == source else None
            if rank == 0:  # for the others the folder is not as it was when they looked
                folder.require_own(kind.picture_names(folder, options))
        else:
            folder.require_free(kind.picture_names(folder, options), overwrite=options.overwrite)
        if data is None:
            options, data, part = _data(options, rank)
        training, validation = (data, part) if part else _divided(data, options)
        model = build(cls, config, data.num_classes, seed=options.seed)
        init = kind.init(model, options) if state is None else None
        writer = kind(name, folder, options, config, training, whole=data) if rank == 0 else None
        display = Display(prog.partition(" ")[2], quiet=options.quiet or rank != 0)
        with _or_way_on(kind, name, path), _interrupts() as interrupted, display.live():
            meter = Meter((state or {}).get("meter"))
            steps = fit(
                model,
                training,
                validation=validation,
                steps=options.steps,
                budget=parse_duration(options.budget) if options.budget is not None else None,
                seed=options.seed,
                device=options.device,
                precision=options.precision,
                validate_every=options.validate_every,
                patience=options.patience,
                compile=options.compile,
                init=init,
                state=state,
                stop=lambda: bool(interrupted),
            )
            last = _follow(steps, writer, meter, validation, display, state, held)
        if writer is None:
            return 130 if last is not None and last.stopped else 0
        if last is None:
            if state is None:
                raise ContractError("Training ended before its first step.")
            _complete(writer, state, validation, held)
            return 0
        if interrupted:  # in the last step, perhaps: --resume makes the pictures, too
            again = shlex.join([*prog.split(), "--resume", *(["--out", str(options.out)] if options.out else [])])
            print(f"interrupted at step {last.number}; continue with: {again}{_where(options)}")
            return 130
        writer.settle()
        outcome = Outcome(last.number, last.progress, last.run.best_validation, last.run.best_step)
        writer.tell(outcome, data, validation, time.monotonic() - started, writer.make_pictures(validation))
        return 0


def _lock_to_resume(folder: RunFolder, held: ExitStack, rank: int) -> None:
    """Have the folder to ourselves before anything in it is read; other processes wait for the first one."""
    if not folder.names:
        raise CheckpointError(f"{folder.path}: holds no run to resume. Leave out --resume to start one.")
    if rank == 0:
        held.enter_context(folder.locked())
    if dist.is_initialized():
        dist.barrier()


def _follow(
    steps: Iterator[Step],
    writer: "RunWriter | None",
    meter: "Meter",
    validation: Dataset | None,
    display: Display,
    state: dict[str, Any] | None,
    held: ExitStack,
) -> Step | None:
    """Take the steps of a run and write what there is to write; return the last step, None where there is none."""
    last: Step | None = None
    saved = time.monotonic()
    for step in steps:
        if writer is not None and last is None:  # nothing on disk changes before a first step has gone well
            writer.start(state, held, step)
        last = step
        meter.add(step)
        if writer is not None:
            writer.after(step, meter, writer.monitor(step, meter, validation, display.note))
            if step.last or time.monotonic() - saved >= writer.options.save_every:
                writer.save(step, meter)
                saved = time.monotonic()
        display.update(step.progress, meter.line(step), last=step.last)
    return last


def _complete(writer: "RunWriter", state: Mapping[str, Any], validation: Dataset | None, held: ExitStack) -> None:
    """Make what a run that has taken its last step lacks, because its process died after that."""
    writer.start(state, held)
    writer.settle()
    made = writer.make_pictures(validation, missing=True)
    print(f"{writer.folder.path}: this run is finished already; nothing to resume.")
    if made:
        print(f"made what was missing: {', '.join(map(str, made))}")


@contextmanager
def _or_way_on(kind: type["RunWriter"], name: str, path: Path) -> Iterator[None]:
    """Say of a state that is damaged which file it is, and how to go on without it."""
    try:
        yield
    except DamagedRunError as error:
        whose = "" if str(error).startswith(str(path)) else f"{path / STATE}: "
        raise CheckpointError(f"{whose}{error} {kind.way_on(name, path)}") from error


def _data(options: TrainOptions, rank: int) -> tuple[TrainOptions, Dataset, Dataset | None]:
    """The flags with the name of the training images, so that a run goes on with what it began with; those; and the
    images to validate on, where they are a part of the data.
    """
    data, note = load_training_data(options.data, data_dir=options.data_dir, **options.how)
    options, said, part = (
        dataclasses.replace(options, data=options.data or (DIGITS if note else "mnist")),
        [note, *data.notes],
        None,
    )
    if options.validation is None:
        part = load_validation_data(options.data, data, data_dir=options.data_dir, **options.how)
    if part is not None:
        said = [line for line in said if not line.endswith(LEFT_OUT)]
        said += [*part.notes, f"{options.data}: validated on the {len(part)} images of its validation part."]
    if rank == 0:
        notes(filter(None, dict.fromkeys(said)))
    return options, data, part


def _divided(data: Dataset, options: TrainOptions) -> tuple[Dataset, Dataset | None]:
    """Images to train on, and those to validate on, held out of them."""
    held_out = min(5000, len(data) // 10) if options.validation is None else options.validation
    return train_validation_split(data, held_out, options.seed) if held_out else (data, None)


def _parse(
    kind: type["RunWriter"], name: str, cls: type[Trainable], flags: list[str], prog: str, default: Any = None
) -> tuple[TrainOptions, BaseConfig]:
    """The host's flags and the model's own, side by side."""
    clash = {f.name for f in dataclasses.fields(kind.Options)} & {f.name for f in dataclasses.fields(cls.Config)}
    if clash:
        raise ContractError(
            f"{cls.__name__}.Config has a field {clash.pop()!r}, which is a flag of `train`; rename it."
        )
    flat = tyro.conf.arg(name="")
    together = dataclasses.make_dataclass(
        "Train",
        [
            ("options", Annotated[kind.Options, flat], field(default_factory=kind.Options)),
            ("config", Annotated[cls.Config, flat], field(default_factory=cls.Config)),
        ],
        frozen=True,
    )
    summary = (docstring(cls) or "a model without a description").splitlines()[0]
    together.__doc__ = f"Train {name}: {summary}"
    parsed: Any = parse(
        together, flags, prog=prog, examples=kind.examples.format(name=name), default=default and default(together)
    )
    return parsed.options, parsed.config


def _resumed(
    kind: type["RunWriter"], name: str, cls: type[Trainable], flags: list[str], prog: str, folder: Path
) -> tuple[TrainOptions, BaseConfig]:
    """The flags the run was started with, and over them the ones given now."""
    path = folder / OPTIONS
    try:
        stored = read_object(path)
        model, values, config = (stored.get(key) for key in ("model", "options", "config"))
        if not (isinstance(model, str) and isinstance(values, dict) and isinstance(config, dict)):
            raise DamagedRunError(f"{path}: is damaged: it lacks the model, its options or its config.")
        options, known = _stored_options(kind, values, path), cls.Config.from_json(json.dumps(config))
    except (ContractError, UsageError, TypeError, ValueError) as error:
        raise DamagedRunError(f"{path}: is damaged: {error}") from error
    if model != name:
        raise CheckpointError(f"{folder}: holds a run of {model!r}, and this is {name!r}. Give its name, or its --out.")
    # A switch that the run was started with is on already, and the parser knows no flag to turn it on again.
    switches = {f"--{key.replace('_', '-')}" for key, value in dataclasses.asdict(options).items() if value is True}
    flags = [flag for flag in flags if flag not in switches]
    return _parse(kind, name, cls, flags, prog, default=lambda together: together(options, known))


def _stored_options(kind: type["RunWriter"], values: dict[str, Any], path: Path) -> TrainOptions:
    """The options in a `run.json`; a later version's flags that this one lacks are told by name."""
    types = types_of(kind.Options)
    values = {kind.Options.former.get(key, key): value for key, value in values.items()}
    for key in values:
        if key not in types:
            raise CheckpointError(f"{path}: has the option {key!r}, which this mnistgen does not know. Upgrade it.")
    paths = {
        key: Path(value)
        for key, value in values.items()
        if isinstance(value, str) and Path in (types[key], *get_args(types[key]))  # a path is text in JSON
    }
    return kind.Options(**checked(kind.Options, values | paths))


class Meter:
    """Means of the losses of the last steps; part of the resume state, so that logs are exact too.

    Raises `DamagedRunError` where the state has something else in its place.
    """

    def __init__(self, state: Mapping[str, Any] | None) -> None:
        state = {} if state is None else state
        try:
            # A state of an earlier version has sums in their place, of as many steps as had not been in the log yet.
            self.window = deque(({str(k): float(v) for k, v in one.items()} for one in state.get("window", ())), WINDOW)
            self.validation: float | None = state.get("validation")
            last = state.get("monitor", state.get("watch"))  # the latter in earlier versions
            self.monitor: dict[str, Any] | None = last  # check
            self.warned: list[int] = list(state.get("warned", ()))  # missing classes, as last told
            self.line_of_monitor()
            if self.validation is not None:
                float(self.validation)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DamagedRunError(f"The state of the run is damaged: its meter makes no sense ({error}).") from error
        self._rate: tuple[float, int] | None = None
        self._speed = 0.0

    def state(self) -> dict[str, Any]:
        return {
            "window": list(self.window),
            "validation": self.validation,
            "monitor": self.monitor,
            "warned": self.warned,
        }

    def add(self, step: Step) -> None:
        self.window.append({name: float(value) for name, value in step.losses.items()})
        if step.validation is not None:
            self.validation = step.validation
        if self._rate is None:
            self._rate = (step.seconds, step.images)
        elif step.seconds - self._rate[0] > 1:
            self._speed = (step.images - self._rate[1]) / (step.seconds - self._rate[0])
            self._rate = (step.seconds, step.images)

    def means(self, steps: int = WINDOW) -> dict[str, float]:
        """The mean of each loss over the last `steps`, of those that had it."""
        last = list(self.window)[-steps:]
        names = dict.fromkeys(name for losses in last for name in losses)
        values = {name: [losses[name] for losses in last if name in losses] for name in names}
        return {name: sum(found) / len(found) for name, found in values.items()}

    def line(self, step: Step) -> str:
        held_out = {"validation": self.validation} if self.validation is not None else {}
        speed = f"  {self._speed:,.0f} images/s" if self._speed else ""
        return f"step {step.number}  {numbers(self.means() | held_out)}{self.line_of_monitor()}{speed}"

    def line_of_monitor(self) -> str:
        if self.monitor is None:
            return ""
        agreement = self.monitor["label_agreement"]
        agreed = "" if agreement is None else f"  agreement {agreement:.1%}"
        return f"{agreed}  coverage {self.monitor['coverage']:.2f}"


class RunWriter(ABC):
    """Writes the files of a run, and those that its kind of model adds.

    Each file is complete or not there, whenever the process dies.
    """

    Options: ClassVar[type[TrainOptions]] = TrainOptions
    examples: ClassVar[str]  # command lines for --help, with {name}
    home: ClassVar[Path]  # where runs go without --out
    pictures: ClassVar[tuple[str, ...]]  # the names of those it may make

    def __init__(
        self, name: str, folder: RunFolder, options: TrainOptions, config: BaseConfig, train: Dataset, *, whole: Dataset
    ) -> None:
        self.name, self.folder, self.options, self.config, self.train = name, folder, options, config, train
        self.whole = whole  # `train` and what was held out of it
        self._tensorboard = TensorBoard(folder) if options.logger == "tensorboard" else None

    @classmethod
    def init(cls, model: Trainable, options: TrainOptions) -> Mapping[str, Tensor] | None:  # noqa: ARG003
        """The weights to begin with, if they are not to be the model's own."""
        return None

    @classmethod
    def picture_names(cls, folder: RunFolder, options: TrainOptions) -> list[str]:
        """The names in the folder of the pictures that such a run may make."""
        return [folder.name_of((options.samples or folder.path) / picture) for picture in cls.pictures]

    @classmethod
    @abstractmethod
    def way_on(cls, name: str, path: Path) -> str:
        """A sentence: what to do where the run in `path` cannot be resumed."""

    def start(self, state: Mapping[str, Any] | None, held: ExitStack, step: Step | None = None) -> None:
        """Take the folder, or say now why it cannot be had, and take up or put aside what is in it.

        `held` keeps the lock on it. `step` is the first one of this process, None where the run has ended before.
        """
        if state is None:
            held.enter_context(self.folder.locked())
            self.folder.require_free(self.picture_names(self.folder, self.options), overwrite=self.options.overwrite)
            self.folder.begin()
        else:
            self._take_up(state, step)
        options = dataclasses.asdict(dataclasses.replace(self.options, resume=False, overwrite=False))
        run = {"model": self.name, "options": options, "config": dataclasses.asdict(self.config)}
        with atomic_file(self.folder.place / OPTIONS) as temporary:
            temporary.write_text(json.dumps(run, indent=2, default=str) + "\n", "utf-8")

    def monitor(
        self,
        step: Step,  # noqa: ARG002  for those who look
        meter: Meter,  # noqa: ARG002
        validation: Dataset | None,  # noqa: ARG002
        say: Callable[[str], None],  # noqa: ARG002
    ) -> dict[str, Any] | None:
        """Check what the model generates, for the log and the meter; None where this is no step for that.

        `say` prints a line that a person should see.
        """
        return None

    def after(self, step: Step, meter: Meter, found: dict[str, Any] | None) -> None:
        """Write the log, with what `monitor` has found in this step, and the best weights so far."""
        every = max(1, min(WINDOW, (step.total or 1000) // 20))
        if step.number % every == 0 or step.validation is not None or found is not None:
            record = {
                "step": step.number,
                "epoch": round(step.epoch, 4),
                "seconds": round(step.seconds, 3),
                "lr": _peak(step) * step.lr,
                # Of as many steps in each record: a mean over fewer would stand out of the curve.
                "losses": {key: x if math.isfinite(x) else None for key, x in meter.means(every).items()},
                "validation": step.validation,
                **({} if found is None else {"monitor": found}),
            }
            path = self.folder.place / LOG
            try:
                with path.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(record) + "\n")
            except OSError as error:
                raise MnistgenError(f"{path}: cannot be written: {error.strerror}.") from error
            if self._tensorboard is not None:
                seen = step.validation is not None or found is not None or step.last
                self._tensorboard.add(record, self.samples_of(step) if seen else None)
        if step.best:
            self._weights(step, meter, BEST)
        if self.options.keep_every and step.number % self.options.keep_every == 0:
            self._weights(step, meter, KEPT.format(step.number))

    def samples_of(self, step: Step) -> Tensor | None:  # noqa: ARG002  for those that generate
        """A picture of what the averaged model generates, (H, W) uint8, for a logger; None where it does not."""
        return None

    def save(self, step: Step, meter: Meter) -> None:
        """The state from which to go on, and the weights so far; in this order, so that no weights lack a state."""
        save_state(self.folder.place / STATE, {**step.run.state_dict(), "meter": meter.state()})
        self._weights(step, meter, WEIGHTS)
        self.folder.settle()
        if self._tensorboard is not None:
            self._tensorboard.write()

    def settle(self) -> None:
        """Put the best weights, after the last step, in place of the last, for a run that was to have patience."""
        weights, best = (self.folder.place / name for name in (WEIGHTS, BEST))
        if self.options.patience is not None and best.is_file():
            content = best.read_bytes()
            if not weights.is_file() or weights.read_bytes() != content:
                with atomic_file(weights) as temporary:
                    temporary.write_bytes(content)

    def make_pictures(self, validation: Dataset | None, *, missing: bool = False) -> list[Path]:
        """Make the pictures, or those that are missing, and return where they are."""
        made = []
        for picture, make in self.plots(validation).items():
            path = (self.options.samples or self.folder.path) / picture
            if not (missing and path.exists()):
                self.folder.claim(self.folder.name_of(path))
                make(path)
                made.append(path)
        return made

    @abstractmethod
    def plots(self, validation: Dataset | None) -> dict[str, Callable[[Path], None]]:
        """The pictures by their names, and how each is made once the run is done."""

    @abstractmethod
    def tell(
        self, outcome: Outcome, data: Dataset, validation: Dataset | None, seconds: float, pictures: list[Path]
    ) -> None:
        """Print what has come of it, where everything is, and what to do next."""

    @abstractmethod
    def write(self, path: Path, step: Step, scores: dict[str, float]) -> None:
        """The averaged model's checkpoint."""

    def _take_up(self, state: Mapping[str, Any], step: Step | None) -> None:
        """Go on with the run in the folder: what is later than `state` is forgotten, to be made again."""
        has_shares = not (self.folder.path / MANIFEST).is_file()  # an earlier version logged shares of the peak
        self.folder.go_on()
        stale = [name for at, name in self.folder.numbered() if at > state["step"]]
        self.folder.forget(stale if step is None else [*stale, *self.picture_names(self.folder, self.options)])
        log = self.folder.place / LOG
        lines = log.read_bytes().splitlines() if log.is_file() else []
        records = read_log(log)
        if len(records) < len(lines):
            count = len(lines) - len(records)
            notes([f"{log}: {count} line{'s' * (count > 1)} left out, which hold no record."])
        if has_shares and step is not None:
            records = [record | {"lr": _peak(step) * record["lr"]} for record in records]
        with atomic_file(log) as temporary:
            text = "".join(json.dumps(record) + "\n" for record in records if record["step"] <= state["step"])
            temporary.write_text(text, "utf-8")

    def _weights(self, step: Step, meter: Meter, name: str) -> None:
        scores = {} if meter.validation is None else {"validation_loss": meter.validation}
        self.write(self.folder.claim(name), step, scores)


def _peak(step: Step) -> float:
    """The peak learning rate: that of the first parameters of the first optimizer."""
    return float(step.run.peaks[0][0])


def _where(options: TrainOptions) -> str:
    return "" if options.data == "mnist" or options.out else f" --data {shlex.quote(options.data)}"


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Note the first Ctrl-C or SIGTERM is only noted, in the list; a second one acts as usual."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the signature of a handler
        noted.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    before: dict[signal.Signals, Callable[..., Any] | int | None] = {}
    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.signal(each, note)
    try:
        yield noted
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def parse_duration(text: str) -> float:
    """`90s`, `5m`, `1h30m` or plain seconds, in seconds."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    total = (
        sum(float(part) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True) if part)
        if match
        else 0
    )
    if not 0 < total < math.inf:
        raise UsageError(f"--budget {text!r} is no length of time; write 90s, 5m or 1h30m.")
    return total
