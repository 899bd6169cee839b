"""`mnistgen sample CHECKPOINT`."""

import dataclasses
import inspect
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from mnistgen.checkpoint import HOME, WEIGHTS, Checkpoint, checkpoint_names, find, load, read_checkpoint
from mnistgen.cli.arguments import Common, parse
from mnistgen.console import Display, out, show
from mnistgen.data import Dataset, load_data, to_float
from mnistgen.data.export import export_data
from mnistgen.data.families import FAMILIES
from mnistgen.errors import UsageError
from mnistgen.model import GenerativeModel
from mnistgen.sampling import (
    BATCH,
    coder_of,
    grid,
    interpolate,
    interpolate_images,
    manifold,
    reconstructions,
    sample_batches,
    save_png,
    traverse,
    traverse_coordinate,
)
from mnistgen.training import resolve_device


@dataclass(frozen=True, kw_only=True)
class SampleOptions(Common):
    """Draw labelled images from a trained model: a picture (.png), or data in bulk with --count."""

    source: Annotated[str, tyro.conf.Positional]
    """A checkpoint: a name under checkpoints/, a folder or a .safetensors file."""
    digits: str = ""
    """Which classes: a range 0-9 or a list 0,3,8 makes a row each; digits run together, 2026, make that row."""
    per_digit: int | None = None
    """Images of each class; default: 10, or one row of digits run together; 4 with --reconstruct."""
    count: int | None = None
    """This many images in all, the classes in turn, for data in bulk."""
    out: Path | None = None
    """A .png; with --count a new folder, an .npz or a .csv. Default: samples/CHECKPOINT/."""
    interpolate: tuple[int, int] | None = None
    """Walk in latent space from one class to another, eight rows of ten."""
    between: tuple[tuple[int, int], ...] = ()
    """Walk from one image of --data to another, given by their numbers in it; a row for each two."""
    traverse: bool = False
    """Vary one latent coordinate a row, for the first of --digits."""
    coordinate: int | None = None
    """With --traverse: this coordinate alone, and a row for each of --digits."""
    manifold: bool = False
    """All codes of a model of two latent coordinates, for the first of --digits."""
    reconstruct: bool = False
    """The first images of each of --digits in --data, a column a class, each above its reconstruction."""
    data: str = ""
    """The dataset of --between and --reconstruct; default: that which the checkpoint was trained on, else mnist."""
    split: str = "test"
    """Which part of that dataset."""
    resize: bool = False
    """Convert its images of another size or colour to 28x28 grey."""
    scale: int = 2
    """Screen pixels for each pixel of a picture."""
    batch_size: int = BATCH
    """Images drawn at a time; it changes the speed and not the images."""
    quiet: bool = False
    """No progress and no picture in the terminal."""

    def __post_init__(self) -> None:
        for name in ("per_digit", "count", "scale", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        kinds = {
            "--count": self.count is not None,
            "--interpolate": self.interpolate is not None,
            "--between": bool(self.between),
            "--traverse": self.traverse,
            "--manifold": self.manifold,
            "--reconstruct": self.reconstruct,
        }
        if sum(kinds.values()) > 1:
            given = " and ".join(name for name, is_given in kinds.items() if is_given)
            raise UsageError(f"{given} make different things; give one of them.")
        if self.coordinate is not None and not self.traverse:
            raise UsageError("--coordinate says which coordinate --traverse is to vary; give --traverse, too.")
        if self.data and not (self.between or self.reconstruct):
            raise UsageError("--data says whose images --between and --reconstruct take; give one of them, too.")
        if self.seed < 0:
            raise UsageError(f"--seed is {self.seed}; it must be zero or more.")


EXAMPLES = """
mnistgen sample vae-mnist                                          ten of each digit
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
"""


def run(arguments: list[str], prog: str) -> int:
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        names = ", ".join(checkpoint_names()) or f"none under {HOME}/ yet; train one with `mnistgen train MODEL`"
        raise UsageError(f"Name the checkpoint first: {prog} CHECKPOINT ... There is {names}.")
    if arguments[0] in ("-h", "--help"):
        parse(SampleOptions, arguments, prog=prog, examples=EXAMPLES)
    path = find(arguments[0])
    model, about = load(path), read_checkpoint(path)
    options, knobs = _parse(model, arguments, prog)
    model.to(resolve_device(options.device))
    name = path.parent.name if path.name == WEIGHTS else path.stem
    home = Path("samples") / (name or "sample")
    source = {"Software": "mnistgen", "Source": shlex.join(["mnistgen", "sample", *arguments])}
    provenance = source | {"Checkpoint": json.dumps(dataclasses.asdict(about)), "Seed": str(options.seed)}

    if options.count is not None and not (options.out is not None and options.out.suffix == ".png"):
        data = _bulk(model, about, options, knobs, name)
        target = options.out or home / f"{options.count}-seed{options.seed}.npz"
        export_data(data, target, _format(target), provenance=provenance)
        print(f"{len(data)} labelled images: {target}")
        return 0
    picture, kind = _picture(model, about, options, knobs)
    target = options.out or home / f"{kind}.png"
    if target.suffix != ".png":
        raise UsageError(f"--out {target}: a picture is a .png; for data in a folder or an .npz give --count.")
    save_png(target, picture, provenance, scale=options.scale)
    if not options.quiet:
        show(picture)
    out().print(f"picture: {target}", markup=False)
    return 0


def _parse(model: GenerativeModel, arguments: list[str], prog: str) -> tuple[SampleOptions, dict[str, Any]]:
    """The host's flags, and the model's own sampling knobs: the keyword-only parameters of its `sample`."""
    parameters = inspect.signature(model.sample, eval_str=True).parameters.values()
    knobs = [
        (p.name, p.annotation, field(default=p.default, metadata={}))
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    ]
    clash = {name for name, *_ in knobs} & {f.name for f in dataclasses.fields(SampleOptions)}
    if clash:
        raise UsageError(f"{type(model).__name__}.sample has a knob {clash.pop()!r}, which is a flag of `sample`.")
    together = dataclasses.make_dataclass("Sample", knobs, bases=(SampleOptions,), frozen=True, kw_only=True)
    together.__doc__ = SampleOptions.__doc__
    options: Any = parse(together, arguments, prog=prog, examples=EXAMPLES)
    return options, {name: getattr(options, name) for name, *_ in knobs}


def _picture(
    model: GenerativeModel, about: Checkpoint, options: SampleOptions, knobs: dict[str, Any]
) -> tuple[Tensor, str]:
    """The picture that is asked for, and what to call its file; the seed is in the name where it matters."""
    seed = options.seed
    if options.interpolate is not None:
        start, end = options.interpolate
        return grid(interpolate(model, start, end, seed=seed), 10), f"interpolate-{start}-{end}-seed{seed}"
    if options.between:
        return _between(model, about, options)
    digits, in_a_row = _digits(options.digits, model.num_classes)
    if options.reconstruct:
        return _reconstruct(model, about, options, digits)
    if options.manifold:
        return grid(manifold(model, digits[0]), 20, padding=0), f"manifold-{digits[0]}"
    if options.coordinate is not None:
        images = traverse_coordinate(model, options.coordinate, digits, seed=seed)
        return grid(images, 11), f"traverse-coordinate-{options.coordinate}-seed{seed}"
    if options.traverse:
        return grid(traverse(model, digits[0], seed=seed), 11), f"traverse-{digits[0]}-seed{seed}"
    if options.count is not None:
        labels, columns = _in_turn(digits, options.count), min(10, options.count)
    elif in_a_row:
        labels, columns = torch.tensor(digits).repeat(options.per_digit or 1), len(digits)
    else:
        columns = options.per_digit or 10
        labels = torch.tensor(digits).repeat_interleave(columns)
    return grid(_draw(model, labels, options, knobs), columns), f"grid-seed{seed}"


def _between(model: GenerativeModel, about: Checkpoint, options: SampleOptions) -> tuple[Tensor, str]:
    """A row for each two images: the first, ten decoded ones on the way, the other."""
    coder_of(model)  # before anything is downloaded
    data = _originals(model, about, options)
    for place in (place for pair in options.between for place in pair):
        if not 0 <= place < len(data):
            raise UsageError(
                f"--between: {data.name} ({data.split}) has the images 0 to {len(data) - 1}, and no {place}."
            )
    pairs = torch.tensor(options.between)
    images = interpolate_images(model, to_float(data.images[pairs]), data.labels[pairs])
    places = "-".join(str(place) for pair in options.between for place in pair)
    return grid(images, 12), f"between-{data.name}-{data.split}-{places}"


def _reconstruct(
    model: GenerativeModel, about: Checkpoint, options: SampleOptions, digits: list[int]
) -> tuple[Tensor, str]:
    """Rows of one image of each class, each above the row of their reconstructions."""
    coder_of(model)  # before anything is downloaded
    data, rows = _originals(model, about, options), options.per_digit or 4
    places = [(data.labels == digit).nonzero().flatten()[:rows] for digit in digits]
    for digit, found in zip(digits, places, strict=True):
        if len(found) < rows:
            raise UsageError(
                f"{data.name} ({data.split}) has {len(found)} images of class {digit}, and {rows} are needed; "
                "choose fewer with --per-digit, or other classes with --digits."
            )
    order = torch.stack(places, dim=1).flatten()
    images = reconstructions(model, to_float(data.images[order]), data.labels[order], columns=len(digits))
    return grid(images, len(digits)), f"reconstructions-{data.name}-{data.split}"


def _originals(model: GenerativeModel, about: Checkpoint, options: SampleOptions) -> Dataset:
    """The images of --data, of the classes that the model knows."""
    if not options.data and about.dataset and about.dataset not in FAMILIES:
        raise UsageError(f"The checkpoint is of {about.dataset}, a dataset of your own: name its path with --data.")
    source = options.data or about.dataset or "mnist"
    data = load_data(source, options.split, data_dir=options.data_dir, resize=options.resize)
    if data.num_classes != model.num_classes:
        raise UsageError(
            f"{data.name} has {data.num_classes} classes, and the checkpoint knows {model.num_classes}: name the "
            "dataset that it was trained on with --data."
        )
    return data


def _bulk(
    model: GenerativeModel, about: Checkpoint, options: SampleOptions, knobs: dict[str, Any], name: str
) -> Dataset:
    digits, _ = _digits(options.digits, model.num_classes)
    labels = _in_turn(digits, options.count or 0)
    return Dataset(_draw(model, labels, options, knobs), labels, about.num_classes, name, "all")


def _draw(model: GenerativeModel, labels: Tensor, options: SampleOptions, knobs: dict[str, Any]) -> Tensor:
    display = Display("sample", quiet=options.quiet or len(labels) <= 1000)
    batches: list[Tensor] = []
    done = 0
    with display.live():
        for batch in sample_batches(model, labels, seed=options.seed, batch_size=options.batch_size, **knobs):
            batches.append(batch)
            done += len(batch)
            display.update(done / len(labels), f"{done} images", last=done == len(labels))
    return torch.cat(batches)


def _in_turn(digits: list[int], count: int) -> Tensor:
    return torch.tensor(digits).repeat(-(-count // len(digits)))[:count]


def _digits(text: str, num_classes: int) -> tuple[list[int], bool]:
    """The classes that `--digits` names, and whether they are to stand in one row."""
    text = text.strip() or f"0-{num_classes - 1}"
    if match := re.fullmatch(r"(\d+)-(\d+)", text):
        first, last = map(int, match.groups())
        digits, in_a_row = list(range(first, last + 1)), False
    elif re.fullmatch(r"\d+(,\d+)+", text):
        digits, in_a_row = [int(part) for part in text.split(",")], False
    elif text.isdecimal():
        # One class of a model with more than ten, or digits run together.
        single = int(text) < num_classes and str(int(text)) == text
        digits, in_a_row = ([int(text)], False) if single else ([int(digit) for digit in text], True)
    else:
        digits, in_a_row = [], False
    if not digits or max(digits) >= num_classes:
        raise UsageError(
            f"--digits {text!r} names no classes of this model; write a range (0-{num_classes - 1}), "
            "a list (0,3,8), or digits run together (2026)."
        )
    return digits, in_a_row


def _format(target: Path) -> str:
    """What to write, by the ending of the path."""
    formats = {"": "png", ".npz": "npz", ".csv": "csv"}
    if target.suffix not in formats:
        raise UsageError(f"--out {target}: data in bulk is written as a folder, an .npz or a .csv.")
    return formats[target.suffix]
