"""What `train` and `evaluator train` share: one run from flags to files, with progress, interrupts and resuming."""

import dataclasses
import json
import math
import re
import shlex
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro
from torch import Tensor

from mnistgen.checkpoint import WEIGHTS, load_state, save_state
from mnistgen.cli.arguments import Common, parse
from mnistgen.console import Display, numbers
from mnistgen.contract import told
from mnistgen.data import Dataset, load_training_data, train_validation_split
from mnistgen.errors import CheckpointError, ContractError, MnistgenError, UsageError
from mnistgen.files import atomic_file, clear_leftovers
from mnistgen.model import BaseConfig, Trainable
from mnistgen.report import read_log
from mnistgen.training import Step, fit

STATE = "resume.pt"
LOG = "log.jsonl"
OPTIONS = "run.json"
BEST = "best.safetensors"
KEPT = "step-{:08d}.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Common):
    """The flags of `train` that every model has."""

    data: str = ""
    """Dataset name (see `mnistgen data --help`) or a path: IDX, CSV, NPZ, or a folder of images by class. Default:
    mnist, or the synthetic `digits` where mnist is neither on disk nor to be downloaded."""
    resize: bool = False
    """Convert images of another size or colour to 28x28 grey."""
    validation: int | None = None
    """Training images held out for the validation loss; default: a tenth, at most 5000."""
    steps: int | None = None
    """Length in steps, instead of --epochs."""
    budget: str | None = None
    """Length in wall time, such as 90s, 5m or 1h30m, instead of --epochs; the schedule fits itself to it."""
    out: Path | None = None
    """Folder of the checkpoint; default: checkpoints/MODEL-DATASET."""
    samples: Path | None = None
    """Folder of the pictures; default: samples/MODEL-DATASET."""
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
    compile: bool = False
    """Compile the model's networks (needs a C++ compiler; slow to start, faster later)."""
    quiet: bool = False
    """No progress and no pictures in the terminal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_every is not None and self.keep_every < 1:
            raise UsageError(f"--keep-every is {self.keep_every}; it must be at least 1.")


def train(kind: type["Files"], name: str, cls: type[Trainable], flags: list[str], prog: str, rank: int) -> int:
    """Train `name` and leave behind what `kind` says; return the exit code."""
    started = time.monotonic()
    options, config = _parse(kind, name, cls, flags, prog)
    data = None
    folder = options.out
    if folder is None:
        options, data = _data(options, rank)
        folder = kind.home / f"{name}-{data.name}"
    state = None
    if options.resume:
        source = options.data
        options, config = _resumed(kind, name, cls, flags, prog, folder)
        state = load_state(folder / STATE)
        data = data if options.data == source else None
    elif not options.overwrite and any((folder / file).exists() for file in (WEIGHTS, STATE)):
        raise UsageError(f"{folder}: holds a checkpoint already. Use --resume to continue it, or --overwrite.")
    if data is None:
        options, data = _data(options, rank)
    held_out = min(5000, len(data) // 10) if options.validation is None else options.validation
    training, validation = train_validation_split(data, held_out, options.seed) if held_out else (data, None)
    model = _build(cls, config, data.num_classes, options.seed)
    init = kind.init(model, options) if state is None else None

    files = kind(name, folder, options, config, training) if rank == 0 else None
    if files is not None:
        files.start(state)
    display = Display(prog.partition(" ")[2], quiet=options.quiet or rank != 0)
    meter = Meter((state or {}).get("meter"))
    last: Step | None = None
    with _interrupts() as interrupted, display.live():
        saved = time.monotonic()
        for step in fit(
            model,
            training,
            validation=validation,
            steps=options.steps,
            budget=parse_duration(options.budget) if options.budget else None,
            seed=options.seed,
            device=options.device,
            precision=options.precision,
            validate_every=options.validate_every,
            patience=options.patience,
            compile=options.compile,
            init=init,
            state=state,
            stop=lambda: bool(interrupted),
        ):
            last = step
            meter.add(step)
            if files is not None:
                files.after(step, meter, files.watch(step, meter, validation, display.note))
                if step.last or time.monotonic() - saved >= options.save_every:
                    files.save(step, meter)
                    saved = time.monotonic()
            display.update(step.progress, meter.line(step), last=step.last)
    if files is None:
        return 130 if last is not None and last.stopped else 0
    if last is None:
        if state is None:
            raise ContractError("Training ended before its first step.")
        print(f"{folder}: this run is finished already; nothing to resume.")
        return 0
    if last.stopped:
        again = shlex.join([*prog.split(), "--resume", *(["--out", str(options.out)] if options.out else [])])
        print(f"interrupted at step {last.number}; continue with: {again}{_where(options)}")
        return 130
    if options.patience is not None and (folder / BEST).exists():  # the best weights instead of the last
        with atomic_file(folder / WEIGHTS) as temporary:
            temporary.write_bytes((folder / BEST).read_bytes())
    files.finish(last, data, validation, time.monotonic() - started)
    return 0


def _data(options: TrainOptions, rank: int) -> tuple[TrainOptions, Dataset]:
    """The training images, and the flags with their name, so that a run goes on with what it began with."""
    data, note = load_training_data(options.data, data_dir=options.data_dir, resize=options.resize)
    if note and rank == 0:
        print(note, file=sys.stderr)
    return dataclasses.replace(options, data=options.data or data.name), data


def _parse(
    kind: type["Files"], name: str, cls: type[Trainable], flags: list[str], prog: str, default: Any = None
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
    summary = (cls.__doc__ or "a model without a description").strip().splitlines()[0]
    together.__doc__ = f"Train {name}: {summary}"
    parsed: Any = parse(
        together, flags, prog=prog, examples=kind.examples.format(name=name), default=default and default(together)
    )
    return parsed.options, parsed.config


def _resumed(
    kind: type["Files"], name: str, cls: type[Trainable], flags: list[str], prog: str, folder: Path
) -> tuple[TrainOptions, BaseConfig]:
    """The flags the run was started with, and over them the ones given now."""
    path = folder / OPTIONS
    try:
        stored = json.loads(path.read_text("utf-8"))
        config = cls.Config.from_json(json.dumps(stored["config"]))
        paths = {key: Path(value) for key in ("out", "samples", "data_dir") if (value := stored["options"][key])}
        options = kind.Options(**{**stored["options"], **paths})
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: holds no run to resume. Leave out --resume to start one.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read, so the run cannot be resumed: {error}.") from error
    # A switch that the run was started with is on already, and the parser knows no flag to turn it on again.
    switches = {f"--{key.replace('_', '-')}" for key, value in dataclasses.asdict(options).items() if value is True}
    flags = [flag for flag in flags if flag not in switches]
    return _parse(kind, name, cls, flags, prog, default=lambda together: together(options, config))


def _build(cls: type[Trainable], config: BaseConfig, num_classes: int, seed: int) -> Trainable:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with told("__init__()", cls):
            return cls(config, num_classes)


class Meter:
    """Means of the losses since the last record; part of the resume state, so that logs are exact too."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}
        self.counts: dict[str, int] = dict(state["counts"]) if state else {}
        self.validation: float | None = state["validation"] if state else None
        self.watch: dict[str, Any] | None = state.get("watch") if state else None  # what the last look saw
        self.warned: list[int] = list(state.get("warned", ())) if state else []  # missing classes, as last told
        self.record: dict[str, float] = {}
        self._rate: tuple[float, int] | None = None
        self._speed = 0.0

    def state(self) -> dict[str, Any]:
        return {
            "sums": self.sums,
            "counts": self.counts,
            "validation": self.validation,
            "watch": self.watch,
            "warned": self.warned,
        }

    def add(self, step: Step) -> None:
        for name, value in step.losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1
        if step.validation is not None:
            self.validation = step.validation
        if self._rate is None:
            self._rate = (step.seconds, step.images)
        elif step.seconds - self._rate[0] > 1:
            self._speed = (step.images - self._rate[1]) / (step.seconds - self._rate[0])
            self._rate = (step.seconds, step.images)

    def flush(self) -> dict[str, float]:
        self.record = {name: self.sums[name] / self.counts[name] for name in self.sums}
        self.sums, self.counts = {}, {}
        return self.record

    def line(self, step: Step) -> str:
        shown = {
            **(self.record or step.losses),
            **({"validation": self.validation} if self.validation is not None else {}),
        }
        seen = ""
        if self.watch is not None:
            agreement = self.watch["label_agreement"]
            seen = "" if agreement is None else f"  agreement {agreement:.1%}"
            seen += f"  coverage {self.watch['coverage']:.2f}"
        speed = f"  {self._speed:,.0f} images/s" if self._speed else ""
        return f"step {step.number}  {numbers(shown)}{seen}{speed}"


class Files(ABC):
    """What a run leaves behind, and what its kind of model adds to that.

    Each file is complete or not there, whenever the process dies.
    """

    Options: ClassVar[type[TrainOptions]] = TrainOptions
    examples: ClassVar[str]  # command lines for --help, with {name}
    home: ClassVar[Path]  # where runs go without --out
    prefix: ClassVar[str] = ""  # of the pictures' folder

    def __init__(self, name: str, folder: Path, options: TrainOptions, config: BaseConfig, train: Dataset) -> None:
        self.name, self.folder, self.options, self.config, self.train = name, folder, options, config, train
        self.pictures = options.samples or Path("samples") / f"{self.prefix}{name}-{train.name}"

    @classmethod
    def init(cls, model: Trainable, options: TrainOptions) -> Mapping[str, Tensor] | None:  # noqa: ARG003
        """The weights to begin with, if they are not to be the model's own."""
        return None

    def start(self, state: dict[str, Any] | None) -> None:
        """Make the folder, or say now why it cannot be written, and take up or clear what is in it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MnistgenError(f"{self.folder}: cannot be written: {error.strerror}.") from error
        clear_leftovers(self.folder)
        if state is None:
            for file in (STATE, LOG, BEST):  # the state first: without it nothing old can be resumed
                remove(self.folder / file)
            self._forget(0)
        else:
            log = self.folder / LOG
            self._forget(state["step"])
            records = [r for r in (read_log(log) if log.exists() else []) if r["step"] <= state["step"]]
            with atomic_file(log) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        options = dataclasses.asdict(dataclasses.replace(self.options, resume=False, overwrite=False))
        run = {"model": self.name, "options": options, "config": dataclasses.asdict(self.config)}
        with atomic_file(self.folder / OPTIONS) as temporary:
            temporary.write_text(json.dumps(run, indent=2, default=str) + "\n", "utf-8")

    def watch(
        self,
        step: Step,  # noqa: ARG002  for those who look
        meter: Meter,  # noqa: ARG002
        validation: Dataset | None,  # noqa: ARG002
        say: Callable[[str], None],  # noqa: ARG002
    ) -> dict[str, Any] | None:
        """What the model's outputs look like, for the log and the meter; None where this is no step to look at.

        `say` prints a line that a person should see.
        """
        return None

    def after(self, step: Step, meter: Meter, seen: dict[str, Any] | None) -> None:
        """The log, with what `watch` has seen in this step, and the best weights so far."""
        every = max(1, min(50, (step.total or 1000) // 20))
        full = step.number % every == 0  # a mean over fewer steps than the others' would stand out of the curve
        if full or step.validation is not None or seen is not None:
            losses = meter.flush() if full else {}
            record = {
                "step": step.number,
                "epoch": round(step.epoch, 4),
                "seconds": round(step.seconds, 3),
                "lr": step.lr,
                "losses": {key: value if math.isfinite(value) else None for key, value in losses.items()},
                "validation": step.validation,
                **({} if seen is None else {"watch": seen}),
            }
            try:
                with (self.folder / LOG).open("a", encoding="utf-8") as log:
                    log.write(json.dumps(record) + "\n")
            except OSError as error:
                raise MnistgenError(f"{self.folder / LOG}: cannot be written: {error.strerror}.") from error
        if step.best:
            self._weights(step, meter, self.folder / BEST)
        if self.options.keep_every and step.number % self.options.keep_every == 0:
            self._weights(step, meter, self.folder / KEPT.format(step.number))

    def save(self, step: Step, meter: Meter) -> None:
        """The state from which to go on, and the weights so far; in this order, so that no weights lack a state."""
        save_state(self.folder / STATE, {**step.run.state_dict(), "meter": meter.state()})
        self._weights(step, meter, self.folder / WEIGHTS)

    @abstractmethod
    def finish(self, step: Step, data: Dataset, validation: Dataset | None, seconds: float) -> None:
        """After the last step: the pictures, and a word on where everything is."""

    @abstractmethod
    def write(self, path: Path, step: Step, scores: dict[str, float]) -> None:
        """The averaged model's checkpoint."""

    def _forget(self, steps: int) -> None:
        """Remove the copies that were kept after so many steps."""
        for path in self.folder.glob(KEPT.format(0).replace("0", "?")):
            if path.stem[-8:].isdecimal() and int(path.stem[-8:]) > steps:
                remove(path)

    def _weights(self, step: Step, meter: Meter, path: Path) -> None:
        self.write(path, step, {} if meter.validation is None else {"validation_loss": meter.validation})


def _where(options: TrainOptions) -> str:
    return "" if options.data == "mnist" or options.out else f" --data {shlex.quote(options.data)}"


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Inside, the first Ctrl-C or SIGTERM is only noted, in the list; a second one acts as usual."""
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
    if total <= 0:
        raise UsageError(f"--budget {text!r} is no length of time; write 90s, 5m or 1h30m.")
    return total


def remove(path: Path) -> None:
    """Remove a file where there is one. Raises `MnistgenError` where it cannot be."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise MnistgenError(f"{path}: cannot be replaced: {error.strerror}.") from error
