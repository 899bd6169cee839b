"""`mnistgen sample [CHECKPOINT]`."""

import dataclasses
import inspect
import json
import shlex
from dataclasses import field
from pathlib import Path
from typing import Any

import docstring_parser
from torch import Tensor

from mnistgen.checkpoint import WEIGHTS, find, load, read_checkpoint
from mnistgen.cli.arguments import parse
from mnistgen.cli.sample_bulk import write_bulk
from mnistgen.cli.sample_pictures import SampleOptions, draw_picture, rendered
from mnistgen.console import out, show
from mnistgen.errors import UsageError
from mnistgen.model import GenerativeModel
from mnistgen.sampling import save_gif, save_png
from mnistgen.text import docstring
from mnistgen.training import resolve_device

DEFAULT = "flow-mnist"  # what is sampled where no checkpoint is named
EXAMPLES = """
mnistgen sample                                                    ten of each digit by the shipped flow model
mnistgen sample vae-mnist                                          by another checkpoint
mnistgen sample vae-mnist --digits 0-9 --per-digit 10 --seed 0 --out grid.png
mnistgen sample vae-mnist --digits 2026 --out year.png             those digits in a row
mnistgen sample vae-mnist --count 1000 --out digits.npz            labelled data
mnistgen sample vae-mnist --count 1000 --out digits/               a folder of PNGs by class
mnistgen sample vae-mnist --interpolate 3 8                        a walk between random codes of two classes
mnistgen sample vae-mnist --between 0 1 18 61                      walks between test images: 0 to 1, 18 to 61
mnistgen sample vae-mnist --digits 5 --traverse                    each latent coordinate, of one class
mnistgen sample vae-mnist --traverse --coordinate 3                one latent coordinate, of each class
mnistgen sample vae-mnist --reconstruct                            test images above their reconstructions
mnistgen train vae --latent-dim 2 --out vae-2d && mnistgen sample vae-2d --manifold
mnistgen sample flow-mnist --path                                  from noise to digit; with --out path.gif, moving
mnistgen sample flow-mnist --sweep steps 1 2 4 8 16 32             the same noise at each number of steps
mnistgen sample flow-mnist --same-noise                            the same noise for each class
mnistgen sample flow-mnist --inpaint right                         the right half of test images drawn anew
mnistgen sample flow-mnist --vary 0.3 0.5 0.7                      variations of test images
"""


def run(arguments: list[str], prog: str) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        parse(SampleOptions, arguments, prog=prog, examples=EXAMPLES)
    if not arguments or arguments[0].startswith("-"):
        arguments = [DEFAULT, *arguments]
    path = find(arguments[0])
    model, about = load(path), read_checkpoint(path)
    options, knobs = _parse(model, arguments, prog)
    model.to(resolve_device(options.device))
    name = path.parent.name if path.name == WEIGHTS else path.stem
    home = Path("samples") / (name or "sample")
    source = {"Software": "mnistgen", "Source": shlex.join(["mnistgen", "sample", *arguments])}
    provenance = source | {"Checkpoint": json.dumps(dataclasses.asdict(about)), "Seed": str(options.seed)}

    if options.count is not None and not (options.out is not None and options.out.suffix == ".png"):
        default = home / f"{options.count}-seed{options.seed}.{options.format or 'npz'}"
        if options.format in ("png", "idx"):
            default = default.with_suffix("")
        write_bulk(model, about, options, knobs, name=name, default=default, provenance=provenance)
        return 0
    ending = options.out.suffix if options.out is not None else ".png"
    moving = options.path and ending == ".gif"
    if ending != ".png" and not moving:
        moves = ", or a .gif with --path" if ending == ".gif" else ""
        raise UsageError(
            f"--out {options.out}: a picture is a .png{moves}; for data in a folder or an .npz give --count."
        )
    picture = draw_picture(model, about, options, knobs, moving=moving)
    target = options.out or home / f"{picture.name}.png"
    frames = rendered(picture, options)
    if moving:
        save_gif(target, frames, provenance)
    else:
        save_png(target, frames[0], provenance | {"Grid": _place(picture.frames[0], frames[0], options.scale)})
    if not options.quiet:
        show(picture.frames[-1])
    out().print(f"picture: {target}", markup=False)
    return 0


def _place(grid: Tensor, page: Tensor, scale: int) -> str:
    """Where the images are in a picture with captions: left, top, right and bottom, in pixels."""
    (height, width), (bottom, right) = grid.shape, page.shape
    return f"{right - scale * width} {bottom - scale * height} {right} {bottom}"


def _parse(model: GenerativeModel, arguments: list[str], prog: str) -> tuple[SampleOptions, dict[str, Any]]:
    """The host's flags, and the model's own sampling knobs: the keyword-only parameters of its `sample`."""
    parameters = inspect.signature(model.sample, eval_str=True).parameters.values()
    words = knob_help(type(model))
    knobs = [
        (p.name, p.annotation, field(default=p.default, metadata={"help": words.get(p.name)}))
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    ]
    clash = {name for name, *_ in knobs} & {f.name for f in dataclasses.fields(SampleOptions)}
    if clash:
        raise UsageError(f"{type(model).__name__}.sample has a knob {clash.pop()!r}, which is a flag of `sample`.")
    together = dataclasses.make_dataclass("Sample", knobs, bases=(SampleOptions,), frozen=True, kw_only=True)
    together.__doc__ = docstring(SampleOptions)
    options: Any = parse(together, arguments, prog=prog, examples=EXAMPLES)
    return options, {name: getattr(options, name) for name, *_ in knobs}


def knob_help(cls: type[GenerativeModel]) -> dict[str, str]:
    """What the docstring of `sample` says of each knob ("Args:" and the like); a subclass need not say it again."""
    words: dict[str, str] = {}
    for base in cls.__mro__:
        text = getattr(vars(base).get("sample"), "__doc__", None)
        for parameter in docstring_parser.parse(inspect.cleandoc(text)).params if text else ():
            words.setdefault(parameter.arg_name, " ".join((parameter.description or "").split()))
    return words
