"""`mnistgen sample [CHECKPOINT]`."""

import dataclasses
import json
import shlex
import sys
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from mnistgen.checkpoint import Checkpoint, find, hidden, load, name_of, read_checkpoint
from mnistgen.cli.arguments import Common, parse
from mnistgen.cli.sample_bulk import write_bulk
from mnistgen.cli.sample_pictures import SampleOptions, draw_picture, rendered
from mnistgen.console import notes, out, show
from mnistgen.errors import UsageError
from mnistgen.model import GenerativeModel
from mnistgen.sampling import save_gif, save_png
from mnistgen.sampling.options import sampling_options
from mnistgen.text import docstring
from mnistgen.training import resolve_device

Flags = TypeVar("Flags", bound=Common)
DEFAULT = "flow-mnist"  # what is sampled where no checkpoint is named
EXAMPLES = """
mnistgen sample                                                    ten of each digit by the shipped flow model
mnistgen sample vae-mnist                                          by another checkpoint
mnistgen sample vae-mnist --digits 0-9 --per-digit 10 --seed 0 --out grid.png
mnistgen sample vae-mnist --digits 2026 --out year.png             those digits in a row
mnistgen sample vae-mnist --count 1000 --out digits.npz            labelled data
mnistgen sample vae-mnist --count 1000 --out digits/               a folder of PNGs by class
mnistgen draw --help                                               interpolations, trajectories, edits, ...
"""


def run(arguments: list[str], prog: str) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        parse(SampleOptions, arguments, prog=prog, examples=EXAMPLES)
    if not arguments or arguments[0].startswith("-"):
        arguments = [DEFAULT, *arguments]
    path = find(arguments[0])
    notes(filter(None, [hidden(arguments[0])]))
    model, about = load(path), read_checkpoint(path)
    options, sampling = parse_with_sampling_options(SampleOptions, model, arguments, prog, EXAMPLES)
    model.to(resolve_device(options.device))
    if options.count is not None and not (options.out is not None and options.out.suffix == ".png"):
        name, home = _home(path)
        default = home / f"{options.count}-seed{options.seed}.{options.format or 'npz'}"
        if options.format in ("png", "idx"):
            default = default.with_suffix("")
        provenance = _provenance(about, options, ["sample", *arguments])
        write_bulk(model, about, options, sampling, name=name, default=default, provenance=provenance)
        return 0
    if flags := options.pictures:
        verb = flags[0].removeprefix("--")
        print(f"sample {flags[0]} will go: `mnistgen draw {verb}` draws the same, see its --help.", file=sys.stderr)
    write_picture(model, about, options, sampling, path, ["sample", *arguments])
    return 0


def write_picture(
    model: GenerativeModel,
    about: Checkpoint,
    options: SampleOptions,
    sampling: dict[str, Any],
    path: Path,
    command: list[str],
) -> None:
    """Draw the picture of the options, write it, and show it where a terminal can; `path` is the checkpoint's."""
    ending = options.out.suffix if options.out is not None else ".png"
    moving = options.trajectory and ending == ".gif"
    if ending != ".png" and not moving:
        moves = ", or a .gif of a trajectory" if ending == ".gif" else ""
        raise UsageError(
            f"--out {options.out}: a picture is a .png{moves}; for data in a folder or an .npz give `sample` --count."
        )
    picture = draw_picture(model, about, options, sampling, moving=moving)
    target = options.out or _home(path)[1] / f"{picture.name}.png"
    frames, provenance = rendered(picture, options), _provenance(about, options, command)
    if moving:
        save_gif(target, frames, provenance)
    else:
        save_png(target, frames[0], provenance | {"Grid": _place(picture.frames[0], frames[0], options.scale)})
    if not options.quiet:
        show(picture.frames[-1])
    out().print(f"picture: {target}", markup=False)


def _home(path: Path) -> tuple[str, Path]:
    """The name of a checkpoint, and the folder of its pictures."""
    name = name_of(path)
    return name, Path("samples") / (name or "sample")


def _provenance(about: Checkpoint, options: SampleOptions, command: list[str]) -> dict[str, str]:
    return {
        "Software": "mnistgen",
        "Source": shlex.join(["mnistgen", *command]),
        "Checkpoint": json.dumps(dataclasses.asdict(about)),
        "Seed": str(options.seed),
    }


def _place(grid: Tensor, page: Tensor, scale: int) -> str:
    """The place of the images in a picture with captions: left, top, right and bottom, in pixels."""
    (height, width), (bottom, right) = grid.shape, page.shape
    return f"{right - scale * width} {bottom - scale * height} {right} {bottom}"


def parse_with_sampling_options(
    kind: type[Flags], model: GenerativeModel, arguments: list[str], prog: str, examples: str
) -> tuple[Flags, dict[str, Any]]:
    """The host's flags, and the model's own sampling options: the keyword-only parameters of its `sample`."""
    sampling = [
        (option.name, option.kind, field(default=option.default, metadata={"help": option.help or None}))
        for option in sampling_options(type(model))
    ]
    clash = {name for name, *_ in sampling} & {f.name for f in dataclasses.fields(kind)}
    if clash:
        raise UsageError(f"{type(model).__name__}.sample has an option {clash.pop()!r}, which is a flag of `{prog}`.")
    together = dataclasses.make_dataclass("Sample", sampling, bases=(kind,), frozen=True, kw_only=True)
    together.__doc__ = docstring(kind)
    options: Any = parse(together, arguments, prog=prog, examples=examples, former=model.former_options)
    return options, {name: getattr(options, name) for name, *_ in sampling}
