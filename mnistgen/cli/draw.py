"""`mnistgen draw VERB CHECKPOINT`: the pictures of a model other than a grid, each a verb with its own few flags."""

import dataclasses
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mnistgen.checkpoint import find, hidden, load, read_checkpoint
from mnistgen.cli.arguments import Common, Reading, parse
from mnistgen.cli.sample import parse_with_sampling_options, write_picture
from mnistgen.cli.sample_pictures import SampleOptions
from mnistgen.console import notes
from mnistgen.errors import UsageError, suggestion
from mnistgen.sampling import BATCH
from mnistgen.text import docstring, say
from mnistgen.training import resolve_device


@dataclass(frozen=True, kw_only=True)
class Verb(Common, ABC):
    """The flags that every verb has."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint: a name under checkpoints/, a folder or a .safetensors file."""
    digits: str = ""
    """Which classes: a range 0-9, a list 0,3,8, or digits run together, 2026; default: all."""
    per_digit: int | None = None
    """Rows, or images, of each class."""
    out: Path | None = None
    """The .png; default: under samples/CHECKPOINT/."""
    plain: bool = False
    """No words beside and above the images."""
    scale: int = 2
    """Screen pixels for each pixel of an image."""
    batch_size: int = BATCH
    """Images sampled at a time; it changes the speed and not the images."""
    quiet: bool = False
    """No progress and no picture in the terminal."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """The fields of `SampleOptions` that say the same."""

    def options(self) -> SampleOptions:
        """All flags, for `draw_picture`."""
        known = {field.name for field in dataclasses.fields(SampleOptions)}
        given = {name: value for name, value in vars(self).items() if name in known}
        return SampleOptions(**(given | self.fields()))


@dataclass(frozen=True, kw_only=True)
class OfData(Verb, Reading):
    """The flags of the verbs that take the images of a dataset."""

    data: str = ""
    """The dataset whose images are taken; default: that which the checkpoint was trained on, else mnist."""
    split: str = "test"
    """Which part of that dataset."""


@dataclass(frozen=True, kw_only=True)
class Interpolate(Verb):
    """Interpolate in latent space from one class to another, eight rows of ten."""

    start: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="CLASS")]
    """The class to begin with."""
    end: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="CLASS")]
    """The class to end with."""

    def fields(self) -> dict[str, Any]:
        return {"interpolate": (self.start, self.end)}


@dataclass(frozen=True, kw_only=True)
class Between(OfData):
    """Interpolate in latent space from one image of a dataset to another, one row per pair."""

    places: Annotated[tuple[tuple[int, int], ...], tyro.conf.Positional]
    """The numbers of the images, two by two."""

    def fields(self) -> dict[str, Any]:
        return {"between": self.places}


@dataclass(frozen=True, kw_only=True)
class Traverse(Verb):
    """Vary one latent coordinate per row, for the first of --digits; or one coordinate, for each of them."""

    coordinate: int | None = None
    """This coordinate alone, and a row for each of --digits."""

    def fields(self) -> dict[str, Any]:
        return {"traverse": True, "coordinate": self.coordinate}


@dataclass(frozen=True, kw_only=True)
class Manifold(Verb):
    """All codes of a model that has two latent coordinates (train vae --latent-dim 2), for the first of --digits."""

    def fields(self) -> dict[str, Any]:
        return {"manifold": True}


@dataclass(frozen=True, kw_only=True)
class Reconstruct(OfData):
    """Images of a dataset above their reconstructions, one column per class."""

    def fields(self) -> dict[str, Any]:
        return {"reconstruct": True}


@dataclass(frozen=True, kw_only=True)
class Trajectory(Verb):
    """The sampling trajectory, from noise to image, one row per image; with --out trajectory.gif, moving."""

    def fields(self) -> dict[str, Any]:
        return {"trajectory": True}


@dataclass(frozen=True, kw_only=True)
class Sweep(Verb):
    """One fixed latent with each value of one of the model's sampling options, one row per class."""

    option: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OPTION")]
    """The sampling option, such as steps."""
    values: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VALUE ...")]
    """Its values, such as 1 2 4 8."""

    def fields(self) -> dict[str, Any]:
        return {"sweep": (self.option, *self.values)}


@dataclass(frozen=True, kw_only=True)
class FixedLatent(Verb):
    """One fixed latent for each class: one row per latent, one column per class."""

    def fields(self) -> dict[str, Any]:
        return {"fixed_latent": True}


@dataclass(frozen=True, kw_only=True)
class Inpaint(OfData):
    """A part of images of a dataset, inpainted, one column per class."""

    part: Literal["left", "right", "top", "bottom", "centre"] = "right"
    """Which part."""

    def fields(self) -> dict[str, Any]:
        return {"inpaint": self.part}


@dataclass(frozen=True, kw_only=True)
class Vary(OfData):
    """Variations of images of a dataset, further and further from them, one column per class."""

    strength: tuple[float, ...] = (0.5, 0.7, 0.9)
    """How far, from 0, the image itself, to 1, another image of the class."""

    def fields(self) -> dict[str, Any]:
        return {"vary": self.strength}


VERBS: dict[str, tuple[type[Verb], str]] = {
    "interpolate": (Interpolate, "vae 3 8"),
    "between": (Between, "vae 0 1 18 61"),
    "traverse": (Traverse, "vae --digits 5"),
    "manifold": (Manifold, "vae-2d"),
    "reconstruct": (Reconstruct, "vqvae"),
    "trajectory": (Trajectory, "flow --out trajectory.gif"),
    "sweep": (Sweep, "flow steps 1 2 4 8"),
    "fixed-latent": (FixedLatent, "wgan_gp"),
    "inpaint": (Inpaint, "flow --part top"),
    "vary": (Vary, "flow --strength 0.5 0.9"),
}
FORMER = {"same-noise": "fixed-latent", "path": "trajectory"}  # verbs of the last version, and what they are called now


def run(arguments: list[str], prog: str) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(prog))
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb in FORMER:
        say(f"note: draw {verb} is called draw {FORMER[verb]} now; the former name will go.", sys.stderr)
        verb = FORMER[verb]
    if verb not in VERBS:
        raise UsageError(f"There is no verb {verb!r}. {suggestion(verb, VERBS)}")
    kind, example = VERBS[verb]
    prog, examples = f"{prog} {verb}", f"mnistgen draw {verb} {example}"
    if not rest or rest[0].startswith("-"):
        parse(kind, rest, prog=prog, examples=examples)  # --help, or what is missing
        raise UsageError(f"Name the checkpoint first: {examples}")
    path = find(rest[0])
    notes(filter(None, [hidden(rest[0])]))
    model, about = load(path), read_checkpoint(path)
    given, sampling = parse_with_sampling_options(kind, model, rest, prog, examples)
    model.to(resolve_device(given.device))
    write_picture(model, about, given.options(), sampling, path, ["draw", *arguments])
    return 0


def usage(prog: str) -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {docstring(kind)}" for name, (kind, _) in VERBS.items())
    examples = "\n".join(f"  {prog} {name} {example}" for name, (_, example) in VERBS.items())
    return f"""usage: {prog} VERB CHECKPOINT ...

Pictures of what a model does; `mnistgen sample` makes grids, and data in bulk.

verbs:
{verbs}

examples:
{examples}
  {prog} VERB --help"""
