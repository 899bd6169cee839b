"""`mnistgen train MODEL`."""

import dataclasses
import json
import math
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import torch
import tyro

from mnistgen import registry
from mnistgen.checkpoint import HOME, WEIGHTS, load, load_state, save, save_state
from mnistgen.cli.arguments import Common, parse
from mnistgen.console import Display, duration, numbers, out, show
from mnistgen.data import Dataset, load_data, to_float, train_validation_split
from mnistgen.errors import CheckpointError, ContractError, MnistgenError, UsageError
from mnistgen.files import atomic_file
from mnistgen.model import BaseConfig, GenerativeModel, HasLatents
from mnistgen.report import curves, read_log
from mnistgen.sampling import grid, reconstruct, sample, save_png
from mnistgen.training import Run, Step, fit, process_group

STATE = "resume.pt"
LOG = "log.jsonl"
OPTIONS = "run.json"
BEST = "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Common):
    """The flags of `train` that every model has."""

    data: str = "mnist"
    """Dataset name (see `mnistgen data --help`) or a path: IDX, CSV, NPZ, or a folder of images by class."""
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
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic; auto: bfloat16 where the hardware computes in it."""
    compile: bool = False
    """Compile the model's networks (needs a C++ compiler; slow to start, faster later)."""
    quiet: bool = False
    """No progress and no pictures in the terminal."""


EXAMPLES = """
mnistgen train {name}                              defaults, into checkpoints/{name}-mnist
mnistgen train {name} --budget 5m --seed 1         train for five minutes
mnistgen train {name} --resume                     continue after Ctrl-C or a crash
mnistgen train {name} --data fashion               another dataset
mnistgen train {name} --data digits.npz --steps 2000 --out runs/mine
torchrun --nproc-per-node 2 -m mnistgen train {name}   two processes, the same global batch
"""


def run(arguments: list[str], prog: str) -> int:
    if not arguments or arguments[0].startswith("-"):
        names = ", ".join(sorted(registry.list_models())) or "none is installed"
        print(f"usage: {prog} MODEL [flags]\n\nmodels: {names}\n\n`{prog} MODEL --help` shows the model's flags.")
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    name, *flags = arguments
    with process_group() as rank:
        return _train(name, registry.model_class(name), flags, f"{prog} {name}", rank)


def _train(name: str, cls: type[GenerativeModel], flags: list[str], prog: str, rank: int) -> int:
    started = time.monotonic()
    options, config = _parse(name, cls, flags, prog)
    data = None
    folder = options.out
    if folder is None:
        data = load_data(options.data, data_dir=options.data_dir, resize=options.resize)
        folder = HOME / f"{name}-{data.name}"
    state = None
    if options.resume:
        source = options.data
        options, config = _resumed(name, cls, flags, prog, folder)
        state = load_state(folder / STATE)
        data = data if options.data == source else None
    elif not options.overwrite and any((folder / file).exists() for file in (WEIGHTS, STATE)):
        raise UsageError(f"{folder}: holds a checkpoint already. Use --resume to continue it, or --overwrite.")
    if data is None:
        data = load_data(options.data, data_dir=options.data_dir, resize=options.resize)
    held_out = min(5000, len(data) // 10) if options.validation is None else options.validation
    train, validation = train_validation_split(data, held_out, options.seed) if held_out else (data, None)
    model = _build(cls, config, data.num_classes, options.seed)

    files = _Files(name, folder, options, config, train) if rank == 0 else None
    if files is not None:
        files.start(state)
    display = Display(f"train {name}", quiet=options.quiet or rank != 0)
    meter = _Meter((state or {}).get("meter"))
    last: Step | None = None
    with _interrupts() as interrupted, display.live():
        saved = time.monotonic()
        for step in fit(
            model,
            train,
            validation=validation,
            steps=options.steps,
            budget=_seconds(options.budget) if options.budget else None,
            seed=options.seed,
            device=options.device,
            precision=options.precision,
            validate_every=options.validate_every,
            patience=options.patience,
            compile=options.compile,
            state=state,
            stop=lambda: bool(interrupted),
        ):
            last = step
            meter.add(step)
            if files is not None:
                files.after(step, meter)
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
    files.finish(last, validation)
    _tell(name, data, files, last, options, time.monotonic() - started)
    return 0


def _parse(
    name: str, cls: type[GenerativeModel], flags: list[str], prog: str, default: Any = None
) -> tuple[TrainOptions, BaseConfig]:
    """The host's flags and the model's own, side by side."""
    clash = {f.name for f in dataclasses.fields(TrainOptions)} & {f.name for f in dataclasses.fields(cls.Config)}
    if clash:
        raise ContractError(
            f"{cls.__name__}.Config has a field {clash.pop()!r}, which is a flag of `train`; rename it."
        )
    flat = tyro.conf.arg(name="")
    together = dataclasses.make_dataclass(
        "Train",
        [
            ("options", Annotated[TrainOptions, flat], field(default_factory=TrainOptions)),
            ("config", Annotated[cls.Config, flat], field(default_factory=cls.Config)),
        ],
        frozen=True,
    )
    summary = (cls.__doc__ or "a model without a description").strip().splitlines()[0]
    together.__doc__ = f"Train {name}: {summary}"
    parsed: Any = parse(
        together, flags, prog=prog, examples=EXAMPLES.format(name=name), default=default and default(together)
    )
    return parsed.options, parsed.config


def _resumed(
    name: str, cls: type[GenerativeModel], flags: list[str], prog: str, folder: Path
) -> tuple[TrainOptions, BaseConfig]:
    """The flags the run was started with, and over them the ones given now."""
    path = folder / OPTIONS
    try:
        stored = json.loads(path.read_text("utf-8"))
        config = cls.Config.from_json(json.dumps(stored["config"]))
        paths = {key: Path(value) for key in ("out", "samples", "data_dir") if (value := stored["options"][key])}
        options = TrainOptions(**{**stored["options"], **paths})
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: holds no run to resume. Leave out --resume to start one.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read, so the run cannot be resumed: {error}.") from error
    return _parse(name, cls, flags, prog, default=lambda together: together(options, config))


def _build(cls: type[GenerativeModel], config: BaseConfig, num_classes: int, seed: int) -> GenerativeModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls(config, num_classes)


class _Meter:
    """Means of the losses since the last record; part of the resume state, so that logs are exact too."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}
        self.counts: dict[str, int] = dict(state["counts"]) if state else {}
        self.validation: float | None = state["validation"] if state else None
        self.record: dict[str, float] = {}
        self._rate: tuple[float, int] | None = None
        self._speed = 0.0

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts, "validation": self.validation}

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
        speed = f"  {self._speed:,.0f} images/s" if self._speed else ""
        return f"step {step.number}  {numbers(shown)}{speed}"


class _Files:
    """What a run leaves behind. Each file is complete or not there, whenever the process dies."""

    def __init__(self, name: str, folder: Path, options: TrainOptions, config: BaseConfig, train: Dataset) -> None:
        self.name, self.folder, self.options, self.config, self.train = name, folder, options, config, train
        self.pictures = options.samples or Path("samples") / f"{name}-{train.name}"

    def start(self, state: dict[str, Any] | None) -> None:
        """Make the folder, or say now why it cannot be written, and take up or clear what is in it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MnistgenError(f"{self.folder}: cannot be written: {error.strerror}.") from error
        if state is None:
            for file in (STATE, LOG, BEST):  # the state first: without it nothing old can be resumed
                _unlink(self.folder / file)
        else:
            log = self.folder / LOG
            records = [r for r in (read_log(log) if log.exists() else []) if r["step"] <= state["step"]]
            with atomic_file(log) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        options = dataclasses.asdict(dataclasses.replace(self.options, resume=False, overwrite=False))
        run = {"model": self.name, "options": options, "config": dataclasses.asdict(self.config)}
        with atomic_file(self.folder / OPTIONS) as temporary:
            temporary.write_text(json.dumps(run, indent=2, default=str) + "\n", "utf-8")

    def after(self, step: Step, meter: _Meter) -> None:
        """The log, and the best weights so far."""
        every = max(1, min(50, (step.total or 1000) // 20))
        if step.number % every == 0 or step.validation is not None:
            record = {
                "step": step.number,
                "epoch": round(step.epoch, 4),
                "seconds": round(step.seconds, 3),
                "lr": step.lr,
                "losses": {key: value if math.isfinite(value) else None for key, value in meter.flush().items()},
                "validation": step.validation,
            }
            try:
                with (self.folder / LOG).open("a", encoding="utf-8") as log:
                    log.write(json.dumps(record) + "\n")
            except OSError as error:
                raise MnistgenError(f"{self.folder / LOG}: cannot be written: {error.strerror}.") from error
        if step.best:
            self._weights(step, meter, self.folder / BEST)

    def save(self, step: Step, meter: _Meter) -> None:
        """The state from which to go on, and the weights so far; in this order, so that no weights lack a state."""
        save_state(self.folder / STATE, {**step.run.state_dict(), "meter": meter.state()})
        self._weights(step, meter, self.folder / WEIGHTS)

    def finish(self, step: Step, validation: Dataset | None) -> None:
        """With early stopping, the best weights instead of the last; and the pictures."""
        if self.options.patience is not None and (self.folder / BEST).exists():
            with atomic_file(self.folder / WEIGHTS) as temporary:
                temporary.write_bytes((self.folder / BEST).read_bytes())
        model = load(self.folder, device=_device(step.run))
        about = {"Software": "mnistgen", "Source": f"mnistgen train {self.name}", "Seed": str(self.options.seed)}
        classes = torch.arange(model.num_classes)
        images = sample(model, classes.repeat_interleave(10), seed=self.options.seed)
        self.grid = grid(images, 10)
        save_png(self.pictures / "grid.png", self.grid, about, scale=2)
        if isinstance(model, HasLatents) and validation is not None:
            count = min(40, len(validation))
            x, y = validation.images[:count], validation.labels[:count]
            again = reconstruct(model, to_float(x), y)
            pairs = (
                torch.stack([x.cpu().view(-1, 10, 1, 28, 28), again.view(-1, 10, 1, 28, 28)], 1)
                if count == 40
                else None
            )
            rows = pairs.flatten(0, 2) if pairs is not None else torch.cat([x.cpu(), again])
            save_png(self.pictures / "reconstructions.png", grid(rows, 10 if count == 40 else count), about, scale=2)
        curves(self.folder / LOG, self.pictures / "curves.png", f"{self.name} on {self.train.name}")

    def _weights(self, step: Step, meter: _Meter, path: Path) -> None:
        scores = {} if meter.validation is None else {"validation_loss": meter.validation}
        assert isinstance(step.ema, GenerativeModel)
        save(
            path,
            step.ema,
            dataset=self.train,
            steps=step.number,
            seed=self.options.seed,
            seconds=step.seconds,
            scores=scores,
        )


def _device(run: Run) -> torch.device:
    return next(run.ema.parameters()).device


def _tell(name: str, data: Dataset, files: _Files, step: Step, options: TrainOptions, seconds: float) -> None:
    """Where everything is, and what to do next."""
    console = out()
    if not options.quiet:
        show(files.grid)
    best = f", validation loss {step.run.best_validation:.4g} at best" if step.run.best_step else ""
    stopped = "" if step.progress >= 1 else " (stopped early)"
    console.print(f"trained {name} on {data.name}: {step.number} steps{stopped} in {duration(seconds)}{best}")
    console.print(f"checkpoint  {files.folder / WEIGHTS}", markup=False)
    console.print(f"pictures    {', '.join(str(path) for path in sorted(files.pictures.glob('*.png')))}", markup=False)
    source = files.folder if options.out else files.folder.name
    flags = f"--digits 0-{data.num_classes - 1} --per-digit 10 --seed 0 --out grid.png"
    console.print(f"draw more   python -m mnistgen sample {shlex.quote(str(source))} {flags}", markup=False)


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


def _seconds(text: str) -> float:
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


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise MnistgenError(f"{path}: cannot be replaced: {error.strerror}.") from error
