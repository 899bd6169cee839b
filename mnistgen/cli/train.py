"""`mnistgen train MODEL`."""

import shlex
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from mnistgen import registry
from mnistgen.checkpoint import HOME, WEIGHTS, load, save
from mnistgen.cli.training import LOG, Files, train
from mnistgen.console import duration, out, show
from mnistgen.data import Dataset, to_float
from mnistgen.model import GenerativeModel, HasLatents
from mnistgen.report import curves
from mnistgen.sampling import grid, reconstruct, sample, save_png
from mnistgen.training import Run, Step, process_group

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
        return train(_GeneratorFiles, name, registry.model_class(name), flags, f"{prog} {name}", rank)


class _GeneratorFiles(Files):
    """The checkpoint of a generative model, and pictures of what it makes."""

    examples = EXAMPLES
    home = HOME

    def finish(self, step: Step, data: Dataset, validation: Dataset | None, seconds: float) -> None:
        """The pictures, where everything is, and what to do next."""
        model = load(self.folder, device=_device(step.run))
        about = {"Software": "mnistgen", "Source": f"mnistgen train {self.name}", "Seed": str(self.options.seed)}
        classes = torch.arange(model.num_classes)
        images = sample(model, classes.repeat_interleave(10), seed=self.options.seed)
        picture = grid(images, 10)
        save_png(self.pictures / "grid.png", picture, about, scale=2)
        if isinstance(model, HasLatents) and validation is not None:
            columns = min(10, len(validation))
            count = min(40, len(validation) // columns * columns)
            x, y = validation.images[:count].cpu(), validation.labels[:count]
            both = torch.stack([x, reconstruct(model, to_float(x), y)])  # each row of images above its own
            rows = rearrange(both, "two (r c) ... -> (r two c) ...", c=columns)
            save_png(self.pictures / "reconstructions.png", grid(rows, columns), about, scale=2)
        curves(self.folder / LOG, self.pictures / "curves.png", f"{self.name} on {self.train.name}")
        self._tell(picture, data, step, seconds)

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

    def _tell(self, picture: Tensor, data: Dataset, step: Step, seconds: float) -> None:
        console = out()
        if not self.options.quiet:
            show(picture)
        best = f", validation loss {step.run.best_validation:.4g} at best" if step.run.best_step else ""
        stopped = "" if step.progress >= 1 else " (stopped early)"
        took = duration(seconds)
        console.print(f"trained {self.name} on {data.name}: {step.number} steps{stopped} in {took}{best}")
        console.print(f"checkpoint  {self.folder / WEIGHTS}", markup=False)
        pictures = ", ".join(str(path) for path in sorted(self.pictures.glob("*.png")))
        console.print(f"pictures    {pictures}", markup=False)
        source = self.folder if self.options.out else self.folder.name
        flags = f"--digits 0-{data.num_classes - 1} --per-digit 10 --seed 0 --out grid.png"
        console.print(f"draw more   python -m mnistgen sample {shlex.quote(str(source))} {flags}", markup=False)


def _device(run: Run) -> torch.device:
    return next(run.ema.parameters()).device
