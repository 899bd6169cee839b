"""`mnistgen train MODEL`."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mnistgen import registry
from mnistgen.checkpoint import HOME, WEIGHTS, hidden, load, save, weights_for
from mnistgen.cli.run_folder import FRAME, LOG, PICTURES, RunFolder
from mnistgen.cli.training_run import Meter, Outcome, RunWriter, TrainOptions, train
from mnistgen.console import duration, notes, out, show
from mnistgen.contract import told
from mnistgen.curves import curves
from mnistgen.data import Dataset, to_float
from mnistgen.errors import CheckpointError, UsageError
from mnistgen.model import BaseConfig, GenerativeModel, HasReconstruction, Trainable
from mnistgen.sampling import grid, reconstructions, sample, save_gif, save_png
from mnistgen.scoring.monitor import SampleMonitor
from mnistgen.scoring.reference import LEAST
from mnistgen.training import Step, process_group, resolve_device

MOST_FRAMES = 60  # of the animation
QUIET_START = 0.1  # share of a run in which missing classes are no news: every model begins there

EXAMPLES = """
mnistgen train {name}                              defaults, into checkpoints/{name}-mnist
mnistgen train {name} --budget 5m --seed 1         train for five minutes
mnistgen train {name} --resume                     continue after Ctrl-C or a crash
mnistgen train ./mymodel.py                        a model of your own, in a file
mnistgen train {name} --data fashion               another dataset
mnistgen train {name} --data digits.npz --steps 2000 --out runs/mine
mnistgen train {name} --init {name}-mnist --data mine.npz     begin from a checkpoint's weights
torchrun --nproc-per-node 2 -m mnistgen train {name}   two processes, the same global batch
"""


def run(arguments: list[str], prog: str) -> int:
    if not arguments or arguments[0].startswith("-"):
        names = ", ".join(sorted(registry.list_models())) or "none is installed"
        print(f"usage: {prog} MODEL [flags]\n\nmodels: {names}\n\n`{prog} MODEL --help` shows the model's flags.")
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    given, *flags = arguments
    name = registry.register_file(given) if registry.is_file(given) else given
    with process_group() as rank:
        return train(_GeneratorWriter, name, registry.model_class(name), flags, f"{prog} {given}", rank)


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions(TrainOptions):
    """The flags of `train` that every generative model has."""

    former: ClassVar[dict[str, str]] = {"watch_every": "monitor_every"}

    init: str = ""
    """Checkpoint of the same model whose weights to begin from: to train further, or on other images; mnistgen:NAME is
    the one that ships."""
    monitor_every: int | None = None
    """Steps between checks of 1,000 samples by the second evaluator; 0: never. Default: an epoch for a model without a
    validation loss (a GAN), never for others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("monitor_every", least=0)


class _GeneratorWriter(RunWriter):
    """The checkpoint of a generative model, and pictures of what it makes."""

    Options = GeneratorOptions
    examples = EXAMPLES
    home = HOME
    pictures = PICTURES

    def __init__(
        self, name: str, folder: RunFolder, options: TrainOptions, config: BaseConfig, train: Dataset, *, whole: Dataset
    ) -> None:
        super().__init__(name, folder, options, config, train, whole=whole)
        self._monitor: SampleMonitor | None = None
        self._monitor_every: int | None = None  # once it is known

    @classmethod
    def init(cls, model: Trainable, options: TrainOptions) -> Mapping[str, Tensor] | None:
        assert isinstance(options, GeneratorOptions)
        assert isinstance(model, GenerativeModel)
        if not options.init:
            return None
        notes(filter(None, [hidden(options.init)]))
        return weights_for(model, options.init)

    @classmethod
    def way_on(cls, name: str, path: Path) -> str:
        if not (path / WEIGHTS).is_file():
            return "Start anew with --overwrite."
        init = shlex.join(["mnistgen", "train", name, "--init", str(path), "--out", f"{path}-further"])
        return f"The weights beside it can be gone on from: {init}"

    def monitor(
        self, step: Step, meter: Meter, validation: Dataset | None, say: Callable[[str], None]
    ) -> dict[str, Any] | None:
        """Check 1,000 samples by the second evaluator; their frame goes to the folder, missing classes to `say`."""
        model = step.ema
        assert isinstance(model, GenerativeModel)
        if self._monitor_every is None:
            self._monitor_every = self._open_monitor(model, validation, say)
        # A run that was interrupted goes on as if it had not been, so its last step is like any other.
        due = self._monitor_every and (step.number % self._monitor_every == 0 or (step.last and not step.stopped))
        if self._monitor is None or not due:
            return None
        check = self._monitor.check(model)
        save_png(self.folder.claim(FRAME.format(step.number)), check.frame)
        meter.monitor = check.to_dict()
        if step.progress > QUIET_START:
            if check.missing != tuple(meter.warned):
                say(_news(step.number, check.missing, self.train.class_names))
            meter.warned = list(check.missing)
        return meter.monitor

    def plots(self, validation: Dataset | None) -> dict[str, Callable[[Path], None]]:
        """A grid, reconstructions where the model can, the curves, and the frames of the monitor as an animation."""
        about = {"Software": "mnistgen", "Source": f"mnistgen train {self.name}", "Seed": str(self.options.seed)}
        title = f"{self.name} on {self.train.name}"
        plots: dict[str, Callable[[Path], None]] = {
            "grid.png": lambda path: save_png(path, self._grid, about, scale=2),
            "curves.png": lambda path: curves(self.folder.path / LOG, path, title),
        }
        if isinstance(self._model, HasReconstruction) and validation is not None:
            plots["reconstructions.png"] = lambda path: self._reconstruct(validation, path, about)
        if len(self.folder.frames()) > 1:
            plots["training.gif"] = lambda path: self._animate(path, about)
        return plots

    def write(self, path: Path, step: Step, scores: dict[str, float]) -> None:
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

    def samples_of(self, step: Step) -> Tensor | None:
        assert isinstance(step.ema, GenerativeModel)
        classes = torch.tensor(step.ema.trained_classes or [0] * 10)
        return grid(sample(step.ema, classes.repeat(2), seed=self.options.seed), len(classes))

    def _open_monitor(self, model: GenerativeModel, validation: Dataset | None, say: Callable[[str], None]) -> int:
        """Steps between checks, 0 for none; takes in the real images where there are to be any."""
        options = self.options
        assert isinstance(options, GeneratorOptions)
        every = options.monitor_every
        if every is None and _lacks_validation_loss(model, self.train):
            every = options.validate_every or max(1, round(len(self.train) / self.config.batch_size))
        if every:
            real = validation if validation is not None and len(validation) >= LEAST else self.train
            try:
                self._monitor = SampleMonitor(
                    real, classes=self.train.classes, source=self.options.data, device=_device_of(model)
                )
            except (CheckpointError, UsageError) as error:
                if options.monitor_every:  # who has not asked for it misses nothing
                    say(f"note: the samples are not monitored. {error}")
        return every if every and self._monitor else 0

    @cached_property
    def _model(self) -> GenerativeModel:
        return load(self.folder.path, device=resolve_device(self.options.device))

    @cached_property
    def _grid(self) -> Tensor:
        # Rows; without labels, ten of anything.
        classes = torch.tensor(self._model.trained_classes or [0] * 10)
        return grid(sample(self._model, classes.repeat_interleave(10), seed=self.options.seed), 10)

    def _reconstruct(self, validation: Dataset, path: Path, about: Mapping[str, str]) -> None:
        assert isinstance(self._model, HasReconstruction)
        columns = min(10, len(validation))
        count = min(40, len(validation) // columns * columns)
        x, y = to_float(validation.images[:count].cpu()), validation.y[:count]
        save_png(path, grid(reconstructions(self._model, x, y, columns=columns), columns), about, scale=2)

    def _animate(self, path: Path, about: Mapping[str, str]) -> None:
        paths = self.folder.frames()
        chosen = torch.linspace(0, len(paths) - 1, min(len(paths), MOST_FRAMES)).round().int()
        save_gif(path, [_read_frame(paths[i]) for i in chosen.tolist()], about)

    def tell(
        self,
        outcome: Outcome,
        data: Dataset,
        validation: Dataset | None,  # noqa: ARG002
        seconds: float,
        pictures: list[Path],
    ) -> None:
        console = out()
        if not self.options.quiet:
            show(self._grid)
        best = f", validation loss {outcome.best_validation:.4g} at best" if outcome.best_step else ""
        stopped = "" if outcome.progress >= 1 else " (stopped early)"
        took = duration(seconds)
        console.print(f"trained {self.name} on {data.name}: {outcome.step} steps{stopped} in {took}{best}")
        console.print(f"checkpoint  {self.folder.path / WEIGHTS}", markup=False)
        console.print(f"pictures    {', '.join(map(str, pictures))}", markup=False)
        source = self.folder.path if self.options.out else self.folder.path.name
        plugin = f"--plugin {shlex.quote(registry.file_of(self.name))} " if registry.file_of(self.name) else ""
        flags = f"{plugin}--per-digit 10 --seed 0 --out grid.png"
        console.print(f"more        python -m mnistgen sample {shlex.quote(str(source))} {flags}", markup=False)


def _news(step: int, missing: Sequence[int], class_names: Sequence[str]) -> str:
    """The news when the set of missing classes has changed."""
    if not missing:
        return f"step {step}: the samples show every class again."
    names = ", ".join(class_names[label] if class_names else str(label) for label in missing)
    return (
        f"warning: step {step}: the samples show no {names} (the second evaluator predicts fewer than a tenth of what "
        "was expected); the model may have collapsed."
    )


@torch.no_grad()
def _lacks_validation_loss(model: GenerativeModel, data: Dataset) -> bool:
    """Whether the model, in eval mode, has nothing to compare on held-out images; two images tell."""
    x, y = to_float(data.images[:2]), data.y[:2]
    device = _device_of(model)
    with torch.random.fork_rng(), told("validation_loss()", type(model)):
        return model.validation_loss(x.to(device), y.to(device)) is None


def _read_frame(path: Path) -> Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture))


def _device_of(model: Trainable) -> torch.device:
    return next(model.parameters()).device
