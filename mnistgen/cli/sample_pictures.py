"""The pictures of `mnistgen sample` and `mnistgen draw`, and the flags of `sample`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import tyro
from einops import rearrange
from torch import Tensor

from mnistgen.checkpoint import Checkpoint
from mnistgen.cli.arguments import Reading
from mnistgen.console import Display, notes
from mnistgen.data import Dataset, load_data, to_float
from mnistgen.data.families import FAMILIES
from mnistgen.errors import UsageError
from mnistgen.model import IMAGE_SHAPE, GenerativeModel
from mnistgen.sampling import (
    BATCH,
    captioned,
    coder_of,
    editor_of,
    evenly,
    fixed_latent,
    grid,
    inpaint,
    interpolate,
    interpolate_images,
    manifold,
    reconstructions,
    reconstructor_of,
    region,
    require_pixels,
    sample_batches,
    sample_trajectory,
    sweep,
    traverse,
    traverse_coordinate,
    vary,
)
from mnistgen.sampling.options import digits_of

COLUMNS = 12  # steps of a trajectory that stand side by side
MASKED = 80  # the grey of what is to be inpainted


@dataclass(frozen=True, kw_only=True)
class SampleOptions(Reading):
    """Sample labelled images from a trained model: a picture (.png), or data in bulk with --count."""

    standard_output = ("out",)
    former: ClassVar[dict[str, str]] = {"same_noise": "fixed_latent", "path": "trajectory"}

    source: Annotated[str, tyro.conf.Positional]
    """A checkpoint: a name under checkpoints/, a folder or a .safetensors file; mnistgen:NAME is the one that ships."""
    digits: str = ""
    """Which classes: a range 0-9, a list 0,3,8 or names three,eight make a row each; digits run together, 2026, make
    that row."""
    per_digit: int | None = None
    """Images of each class; default: 10, or one row of digits run together; fewer where rows mean something else."""
    count: int | None = None
    """This many images in all, as data: sampled and written piece by piece, so that they need not fit into memory."""
    class_counts: Literal["auto", "equal", "test"] = "auto"
    """With --count. equal: the classes in turn; test: in the proportions of the test set of the checkpoint's dataset,
    which a score compares with; auto: test where --count is the size of that set and no --digits are given, else
    equal."""
    out: Path | None = None
    """A .png, or with --trajectory a .gif; with --count a new folder, an .npz, a .csv, or - for standard output.
    Default: samples/CHECKPOINT/."""
    format: Literal["npz", "csv", "png", "idx"] | None = None
    """With --count: the form of the data; default: by the ending of --out. png: a folder of pictures by class; idx: a
    folder of two files as MNIST has."""
    interpolate: tuple[int, int] | None = None
    """Interpolate in latent space from one class to another, eight rows of ten."""
    between: tuple[tuple[int, int], ...] = ()
    """Interpolate from one image of --data to another, given by their numbers in it; one row per pair."""
    traverse: bool = False
    """Vary one latent coordinate per row, for the first of --digits."""
    coordinate: int | None = None
    """With --traverse: this coordinate alone, and a row for each of --digits."""
    manifold: bool = False
    """All codes of a model of two latent coordinates, for the first of --digits."""
    reconstruct: bool = False
    """The first images of each of --digits in --data, one column per class, each above its reconstruction."""
    trajectory: bool = False
    """The sampling trajectory, from noise to digit: one row per image, twelve steps of it; to a .gif, every step."""
    sweep: tuple[str, ...] = ()
    """A sampling option of the model and its values, steps 1 2 4 8: one fixed latent with each, one row per digit."""
    fixed_latent: bool = False
    """One fixed latent for each of --digits: one row per latent, one column per class."""
    inpaint: Literal["left", "right", "top", "bottom", "centre"] | None = None
    """This part of the first image of each of --digits in --data, inpainted, below the image; one column per class."""
    vary: tuple[float, ...] = ()
    """Variations of the first image of each of --digits in --data, by these strengths, from 0 to 1."""
    data: str = ""
    """The dataset whose images are taken; default: that which the checkpoint was trained on, else mnist."""
    split: str = "test"
    """Which part of that dataset."""
    plain: bool = False
    """No words beside and above the images of a picture."""
    scale: int = 2
    """Screen pixels for each pixel of a picture."""
    batch_size: int = BATCH
    """Images sampled at a time; it changes the speed and not the images."""
    quiet: bool = False
    """No progress and no picture in the terminal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("per_digit", "count", "scale", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        of_data = ("--between", "--reconstruct", "--inpaint", "--vary")
        kinds = [*(["--count"] if self.count is not None else []), *self.pictures]
        if len(kinds) > 1:
            raise UsageError(f"{' and '.join(kinds)} make different things; give one of them.")
        if self.coordinate is not None and not self.traverse:
            raise UsageError("--coordinate says which coordinate --traverse is to vary; give --traverse, too.")
        if self.data and not set(kinds) & set(of_data):
            raise UsageError(f"--data says whose images {', '.join(of_data)} take; give one of them, too.")
        if self.count is None and (self.class_counts != "auto" or self.format is not None):
            raise UsageError("--class-counts and --format are of data in bulk; give --count, too.")
        if len(self.sweep) == 1:
            raise UsageError(f"--sweep {self.sweep[0]} needs values: --sweep steps 1 2 4 8")

    @property
    def pictures(self) -> list[str]:
        """The flags of other pictures than a grid that are given."""
        given = {
            "--interpolate": self.interpolate is not None,
            "--between": bool(self.between),
            "--traverse": self.traverse,
            "--manifold": self.manifold,
            "--reconstruct": self.reconstruct,
            "--trajectory": self.trajectory,
            "--sweep": bool(self.sweep),
            "--fixed-latent": self.fixed_latent,
            "--inpaint": self.inpaint is not None,
            "--vary": bool(self.vary),
        }
        return [name for name, is_given in given.items() if is_given]


class Picture(NamedTuple):
    """The picture that was requested, and the name of its file; the seed is in the name where it matters."""

    frames: list[Tensor]  # (H, W) uint8, one, or those of a GIF
    name: str
    rows: Sequence[str] = ()  # captions, left of each row
    columns: Sequence[str] = ()  # above each column
    titles: Sequence[str] = ()  # above each frame


def draw_picture(
    model: GenerativeModel, about: Checkpoint, options: SampleOptions, sampling: dict[str, Any], *, moving: bool
) -> Picture:
    """The picture that the options ask for; `moving`: as frames, where there are any."""
    seed = options.seed
    digits, in_a_row = digits_of(options.digits, model)
    least = options.count or len(digits) * (options.per_digit or 1)  # images, at least
    require_pixels(least * math.prod(IMAGE_SHAPE), options.scale)
    named = [model.class_name(digit) if model.trained_classes else "" for digit in digits]
    if options.trajectory:
        return _trajectory(model, digits, named, in_a_row, options, sampling, moving)
    if options.interpolate is not None:
        return _interpolate(model, options.interpolate, seed)
    if options.between:
        return _between(model, about, options)
    if options.reconstruct:
        return _reconstruct(model, about, options, digits)._replace(columns=named)
    if options.inpaint is not None:
        return _inpaint(model, about, options, digits, options.inpaint)._replace(columns=named)
    if options.vary:
        return _vary(model, about, options, digits)._replace(columns=named)
    if options.manifold:
        return Picture([grid(manifold(model, digits[0]), 20, padding=0)], f"manifold-{digits[0]}")
    values = [f"{value:+.1f}" if value else "0" for value in torch.linspace(-3, 3, 11).round(decimals=1).tolist()]
    if options.coordinate is not None:
        images = traverse_coordinate(model, options.coordinate, digits, seed=seed)
        title = f"coordinate {options.coordinate} of the code, in standard deviations"
        return _still(images, f"traverse-coordinate-{options.coordinate}-seed{seed}", named, values, title)
    if options.traverse:
        images = traverse(model, digits[0], seed=seed)
        rows = [f"z{number}" for number in range(len(images) // len(values))]
        title = f"each coordinate of the code of a {named[0]}, in standard deviations"
        return _still(images, f"traverse-{digits[0]}-seed{seed}", rows, values, title)
    if options.sweep:
        option, settings = _values(options.sweep, sampling, model)
        images = sweep(model, digits, option, settings, seed=seed, batch_size=options.batch_size, **sampling)
        return _still(images, f"sweep-{option}-seed{seed}", named, [f"{setting}" for setting in settings], option)
    if options.fixed_latent:
        images = fixed_latent(model, digits, rows=options.per_digit or 8, seed=seed, **sampling)
        rows = [f"latent {row}" for row in range(options.per_digit or 8)]
        return _still(images, f"fixed-latent-seed{seed}", rows, named)
    labels, columns = _rows(digits, in_a_row, options)
    images = sample_images(model, labels, options, sampling)
    by_class = options.count is None and not in_a_row and bool(model.class_names)
    return Picture([grid(images, columns)], f"grid-seed{seed}", _words(named) if by_class else [])


def rendered(picture: Picture, options: SampleOptions) -> list[Tensor]:
    """The frames as they are saved: scaled, and with their captions."""
    titles = picture.titles or [""] * len(picture.frames)
    return [
        captioned(
            frame,
            [] if options.plain else picture.rows,
            [] if options.plain else picture.columns,
            title="" if options.plain else title,
            scale=options.scale,
        )
        for frame, title in zip(picture.frames, titles, strict=True)
    ]


def sample_images(model: GenerativeModel, labels: Tensor, options: SampleOptions, sampling: dict[str, Any]) -> Tensor:
    """Sample an image for each label, with a progress line where it takes a while."""
    display = Display("sample", quiet=options.quiet or len(labels) <= 1000)
    batches: list[Tensor] = []
    done = 0
    with display.live():
        for batch in sample_batches(model, labels, seed=options.seed, batch_size=options.batch_size, **sampling):
            batches.append(batch)
            done += len(batch)
            display.update(done / len(labels), f"{done} images", last=done == len(labels))
    return torch.cat(batches)


def in_turn(digits: list[int], start: int, stop: int) -> Tensor:
    """The labels of the places from `start` up to `stop`, the digits in turn."""
    return torch.tensor(digits)[torch.arange(start, stop) % len(digits)]


def _still(images: Tensor, name: str, rows: list[str], columns: list[str], title: str = "") -> Picture:
    return Picture([grid(images, len(columns))], name, rows, columns, [title])


def _words(named: list[str]) -> list[str]:
    """The names of classes, but for those that are mere numbers, which a picture of digits shows itself."""
    return [] if all(name.isdecimal() for name in named) else named


def _interpolate(model: GenerativeModel, ends: tuple[int, int], seed: int) -> Picture:
    """Eight rows from one class to the other."""
    start, end = ends
    images = interpolate(model, start, end, seed=seed)
    return _still(images, f"interpolate-{start}-{end}-seed{seed}", [], _percent(10), f"from {start} to {end}")


def _percent(steps: int) -> list[str]:
    return [f"{share:.0%}" for share in torch.linspace(0, 1, steps).tolist()]


def _rows(digits: list[int], in_a_row: bool, options: SampleOptions) -> tuple[Tensor, int]:
    """The labels of a grid, and its columns."""
    if options.count is not None:
        return in_turn(digits, 0, options.count), min(10, options.count)
    if in_a_row:
        return torch.tensor(digits).repeat(options.per_digit or 1), len(digits)
    columns = options.per_digit or 10
    return torch.tensor(digits).repeat_interleave(columns), columns


def _trajectory(
    model: GenerativeModel,
    digits: list[int],
    named: list[str],
    in_a_row: bool,
    options: SampleOptions,
    sampling: dict[str, Any],
    moving: bool,
) -> Picture:
    """A strip of steps for each image, or a grid for each step."""
    name = f"trajectory-seed{options.seed}"
    labels, columns = torch.tensor(digits).repeat_interleave(options.per_digit or 1), 0
    if moving:
        labels, columns = _rows(digits, in_a_row, options)
    steps = sample_trajectory(model, labels, seed=options.seed, **sampling)
    if len(steps) < 2:
        more = "; --steps 8 takes more" if "steps" in sampling else ""
        raise UsageError(
            f"{type(model).__name__} goes from noise to image in one step, so there is no trajectory{more}."
        )
    if moving:
        titles = [f"step {step} of {len(steps)}" for step in range(1, len(steps) + 1)]
        return Picture([grid(images, columns) for images in steps], name, titles=titles)
    places = evenly(len(steps), COLUMNS)
    rows = [word for word in named for _ in range(options.per_digit or 1)]
    images = rearrange(steps[places], "s n ... -> (n s) ...")
    return _still(images, name, rows, [str(place + 1) for place in places], f"after each step, of {len(steps)}")


def _values(given: tuple[str, ...], sampling: dict[str, Any], model: GenerativeModel) -> tuple[str, list[Any]]:
    """The sampling option of `--sweep`, and its values, of its type."""
    name, *texts = given
    option = name.replace("-", "_")
    option = model.former_options.get(option, option)
    if option not in sampling:
        there = f"it has {', '.join(sampling)}" if sampling else "it has none"
        raise UsageError(f"--sweep {name}: this model has no such sampling option; {there}.")
    kind = type(sampling[option])
    try:
        return option, [{"True": True, "False": False}[text] if kind is bool else kind(text) for text in texts]
    except (KeyError, ValueError) as error:
        raise UsageError(f"--sweep {name}: {error} is not of the kind {kind.__name__}.") from error


def _between(model: GenerativeModel, about: Checkpoint, options: SampleOptions) -> Picture:
    """One row per pair of images: the first, ten decoded ones between, the other."""
    coder_of(model)  # before anything is downloaded
    data = _originals(model, about, options)
    for place in (place for pair in options.between for place in pair):
        if not 0 <= place < len(data):
            raise UsageError(
                f"--between: {data.name} ({data.split}) has the images 0 to {len(data) - 1}, and no {place}."
            )
    pairs = torch.tensor(options.between)
    images = interpolate_images(model, to_float(data.images[pairs]), data.y[pairs])
    places = "-".join(str(place) for pair in options.between for place in pair)
    rows = [f"{first} to {second}" for first, second in options.between]
    columns = ["image", *_percent(10), "image"]
    return _still(images, f"between-{data.name}-{data.split}-{places}", rows, columns)


def _reconstruct(model: GenerativeModel, about: Checkpoint, options: SampleOptions, digits: list[int]) -> Picture:
    """Rows of one image of each class, each above the row of their reconstructions."""
    reconstructor_of(model)  # before anything is downloaded
    data = _originals(model, about, options)
    order = _first(data, digits, options.per_digit or 4)
    images = reconstructions(model, to_float(data.images[order]), data.y[order], columns=len(digits))
    rows = ["image", "reconstruction"] * (len(order) // len(digits))
    return Picture([grid(images, len(digits))], f"reconstructions-{data.name}-{data.split}", rows)


def _inpaint(
    model: GenerativeModel, about: Checkpoint, options: SampleOptions, digits: list[int], part: str
) -> Picture:
    """A row of one image of each class, that row without the part, and rows with the part inpainted."""
    editor_of(model)  # before anything is downloaded
    data = _originals(model, about, options)
    order, mask, rows = _first(data, digits, 1), region(part), options.per_digit or 4
    originals, labels = data.images[order], data.y[order]
    again = inpaint(
        model, to_float(originals).repeat(rows, 1, 1, 1), labels.repeat(rows), mask, seed=options.seed
    )  # fmt: skip
    images = torch.cat([originals, originals.masked_fill(mask, MASKED), again])
    name = f"inpaint-{part}-{data.name}-{data.split}-seed{options.seed}"
    return Picture([grid(images, len(digits))], name, ["image", "masked", *["inpainted"] * rows])


def _vary(model: GenerativeModel, about: Checkpoint, options: SampleOptions, digits: list[int]) -> Picture:
    """A row of one image of each class, and rows of variations, further and further from it."""
    editor_of(model)  # before anything is downloaded
    data = _originals(model, about, options)
    order, rows = _first(data, digits, 1), options.per_digit or 2
    originals, labels = data.images[order], data.y[order]
    images = [originals]
    for strength in options.vary:
        x = to_float(originals).repeat(rows, 1, 1, 1)
        images.append(vary(model, x, labels.repeat(rows), strength=strength, seed=options.seed))
    words = ["image", *(f"strength {strength:g}" for strength in options.vary for _ in range(rows))]
    return Picture([grid(torch.cat(images), len(digits))], f"vary-{data.name}-{data.split}-seed{options.seed}", words)


def _originals(model: GenerativeModel, about: Checkpoint, options: SampleOptions) -> Dataset:
    """The images of --data, of the classes that the model knows."""
    if not options.data and about.dataset and about.dataset not in FAMILIES:
        raise UsageError(f"The checkpoint is of {about.dataset}, a custom dataset: name its path with --data.")
    source = options.data or about.dataset or "mnist"
    data = load_data(source, options.split, data_dir=options.data_dir, **options.how)
    notes(data.notes)
    if data.num_classes != model.num_classes:
        raise UsageError(
            f"{data.name} has {data.num_classes} classes, and the checkpoint knows {model.num_classes}: name the "
            "dataset that it was trained on with --data."
        )
    return data


def _first(data: Dataset, digits: list[int], rows: int) -> Tensor:
    """The places of the first images of each class, `rows` rows of one image per class, (rows * len(digits),)."""
    if data.labels is None:
        if len(data) < rows * len(digits):
            raise UsageError(f"{data.name} ({data.split}) has {len(data)} images, and {rows * len(digits)} are needed.")
        return torch.arange(rows * len(digits))
    places = [(data.y == digit).nonzero().flatten()[:rows] for digit in digits]
    for digit, found in zip(digits, places, strict=True):
        if len(found) < rows:
            raise UsageError(
                f"{data.name} ({data.split}) has {len(found)} images of class {digit}, and {rows} are needed; "
                "choose fewer with --per-digit, or other classes with --digits."
            )
    return torch.stack(places, dim=1).flatten()
