"""From the array a file holds to (n, 1, 28, 28) uint8, by one rule for every reader and for arrays in memory.

Numbers become 0..255 and colours grey as what they are says; a size changes only where that is asked for. What was
done is returned as sentences, and what cannot be understood is refused with what was found and a way out: images
are never darkened, stretched or turned in silence.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mnistgen.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

SIDE = 28
LARGEST_SIDE = 4096  # of an image that can be resized, in pixels
LARGEST_COUNT = 5_000_000  # images in one dataset: 4 GB of pixels
CHUNK = 2**22  # pixels converted at a time, to bound the memory of the float copies
DIM = 32  # images whose brightest pixel is darker than this are all but black
BRIGHT = 150  # a ground brighter than this is paper rather than MNIST's black

_RANGES = ((0.0, 1.0), (-1.0, 1.0))  # of floats
_GROUND = -0.75  # the ground of images in [-1, 1] is darker; standardised or centred ones are in no known range
_COLOURS = {1: "grayscale", 2: "grayscale and alpha", 3: "RGB", 4: "RGBA"}


Binarisation = Literal["static", "threshold"]
BINARISATIONS: tuple[Binarisation, ...] = get_args(Binarisation)


class ConversionKeywords(TypedDict, total=False):
    """The fields of `Conversion`, as keywords of what reads images."""

    resize: bool
    invert: bool
    stretch: bool
    photographs: bool
    binarise: "Binarisation | None"


def conversions(options: dict[str, Any]) -> ConversionKeywords:
    """The keywords of `options` that are of this kind, taken out of it."""
    return {key: options.pop(key) for key in ConversionKeywords.__annotations__ if key in options}  # type: ignore[return-value]


@dataclass(frozen=True)
class Conversion:
    """The conversions of images on request; without them, what would need it is refused."""

    resize: bool = False  # other sizes to 28x28, with antialiasing
    invert: bool = False  # black and white exchanged
    stretch: bool = False  # the lowest value to 0 and the highest to 255, whatever they are
    photographs: bool = False  # pictures of ink on paper to MNIST's format (`mnistgen.data.photographs`)
    binarise: Binarisation | None = None  # black and white and nothing between (`mnistgen.data.binarised`)


class Converted(NamedTuple):
    """Images in the format, and what was done to make them so."""

    images: Tensor  # (n, 1, 28, 28) uint8
    notes: tuple[str, ...] = ()


class Scale(NamedTuple):
    """array * factor + offset is in 0..255, but for what rounding adds."""

    factor: float
    offset: float
    note: str = ""


def to_images(array: Array, where: str, how: Conversion | None = None) -> Converted:
    """Images of any layout -> (n, 1, 28, 28) uint8.

    `array`: (n, h, w), (n, c, h, w), (n, h, w, c) with up to 4 channels, or (n, side * side). `where` begins the
    notes, and the `DataError` that is raised where the images are of another size and `resize` is off, where their
    values are in no known range, or where they show nothing.

    Floats in [0, 1] and [-1, 1], booleans and 16-bit numbers are scaled to 0..255, colours are weighed to grey
    (ITU-R BT.601), and transparency is laid over the ground on which the ink shows, as light ink on black.
    """
    how = how or Conversion()
    array, channels_last = _with_channels(array, where)
    n, *rest = array.shape
    h, w, c = rest if channels_last else (*rest[1:], rest[0])
    if n == 0 or h == 0 or w == 0:
        raise DataError(f"{where} holds no images: its shape is {array.shape}.")
    if n > LARGEST_COUNT:
        raise DataError(f"{where} holds {n} images; at most {LARGEST_COUNT} are read.")
    if max(h, w) > LARGEST_SIDE:
        raise DataError(f"{where} holds images of {h}x{w} pixels; the largest that are read are {LARGEST_SIDE} a side.")
    if (h, w) != (SIDE, SIDE) and not how.resize:
        raise refused(where, h, w, f"{_COLOURS[c]} {array.dtype.name}")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} holds {array.dtype}, which is not a kind of pixel.")

    scale = _scale(array, where, how.stretch)
    notes = [scale.note]
    if (h, w, c) == (SIDE, SIDE, 1) and array.dtype == np.uint8 and not scale.note:
        images = torch.from_numpy(np.require(array, requirements=["C", "W"])).reshape(n, 1, SIDE, SIDE)
    else:
        images = torch.empty(n, 1, SIDE, SIDE, dtype=torch.uint8)
        step, dark = max(1, CHUNK // (h * w * c)), 0
        for start in range(0, n, step):
            part = torch.from_numpy(array[start : start + step].astype(np.float32)) * scale.factor + scale.offset
            part, is_dark = grey(part.movedim(3, 1) if channels_last else part)
            images[start : start + step] = fitted(part).round().clamp(0, 255).to(torch.uint8)
            dark += is_dark
        notes += [f"{_COLOURS[c]} converted to grey" if c > 1 else "", f"{dark} images with {DARK_INK}" if dark else ""]
        notes += [resized(h, w)] if (h, w) != (SIDE, SIDE) else []
    return _finished(images, where, how, [note for note in notes if note], array)


DARK_INK = "dark ink on transparency drawn as light ink on black"


def resized(h: int, w: int) -> str:
    """The note on images of another size."""
    return f"resized from {h}x{w} to 28x28" + ("" if h == w else ", which stretches them")


def refused(where: str, h: int, w: int, kind: str, way_out: str = "") -> DataError:
    """The error for images of another size: `kind` says their colours and numbers, `way_out` what else may be done."""
    return DataError(
        f"{where}: the images are {h}x{w} {kind}; MNIST-format images are 28x28 grayscale. Add --resize (resize=True) "
        f"to convert them{way_out}."
    )


def grey(x: Tensor) -> tuple[Tensor, int]:
    """(b, c, h, w) in 0..255 with c in 1..4 -> (b, 1, h, w), and how many were of dark ink on a transparent ground.

    Light ink on transparency is laid over black; dark ink, which would vanish there, over white and inverted.
    """
    c = x.shape[1]
    colour, alpha = (x[:, :-1], x[:, -1:] / 255) if c in (2, 4) else (x, None)
    if colour.shape[1] == 3:
        weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)  # ITU-R BT.601
        colour = (colour * weights).sum(1, keepdim=True)
    if alpha is None:
        return colour, 0
    ink = (colour * alpha).sum((1, 2, 3)) / alpha.sum((1, 2, 3)).clamp_min(1e-6)  # mean, weighed by alpha
    dark = (edge(alpha).mean(1) < 0.5) & (ink < 127.5) & (alpha.amax((1, 2, 3)) > 0)
    return alpha * torch.where(dark[:, None, None, None], 255 - colour, colour), int(dark.sum())


def edge(x: Tensor) -> Tensor:
    """The outermost pixels, (b, 1, h, w) -> (b, pixels)."""
    return torch.cat([x[..., 0, :], x[..., -1, :], x[..., 1:-1, 0], x[..., 1:-1, -1]], -1).flatten(1)


def fitted(x: Tensor) -> Tensor:
    """(b, 1, h, w) of any size -> (b, 1, 28, 28), stretched, with antialiasing."""
    if x.shape[2:] == (SIDE, SIDE):
        return x
    return F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def _with_channels(array: Array, where: str) -> tuple[Array, bool]:
    """The array with four axes, and whether the channels are the last of them."""
    if array.ndim == 2:
        side = round(array.shape[1] ** 0.5)
        if side * side != array.shape[1] or side == 0:
            raise DataError(f"{where} holds rows of {array.shape[1]} numbers, which are not the pixels of a square.")
        return array.reshape(-1, side, side, 1), True
    if array.ndim == 3:
        return array[..., None], True
    if array.ndim == 4 and array.shape[3] in _COLOURS:
        return array, True
    if array.ndim == 4 and array.shape[1] in _COLOURS:
        return array, False
    raise DataError(f"{where}: the shape {array.shape} is not one of images; (n, 28, 28) is.")


def _scale(array: Array, where: str, stretch: bool) -> Scale:
    """Map the values of `array` to 0..255. Half a grey level beyond a range is rounding, and clipped."""
    kind, low, high = array.dtype.kind, float(array.min()), float(array.max())
    found = f"{array.dtype.name} from {low:.9g} to {high:.9g}"
    if not np.isfinite(low + high):
        raise DataError(f"{where}: pixels go from {low:g} to {high:g}; they must be finite.")
    if low == high:
        raise DataError(f"{where}: every pixel is {low:.9g}, so the images show nothing.")
    if stretch:
        factor = 255 / (high - low)
        return Scale(factor, -low * factor, f"{found} stretched to 0..255")
    if kind == "b":
        return Scale(255.0, 0.0, "booleans taken as 0 and 255")
    for first, last in _RANGES if kind == "f" else ():
        level = (last - first) / 255
        near = first - level / 2 <= low and high <= last + level / 2
        if near and (low <= _GROUND or first == 0):
            clipped = "clipped to" if low < first or high > last else "taken as"
            return Scale(1 / level, -first / level, f"{found} {clipped} [{first:g}, {last:g}] and scaled to 0..255")
    if (low >= 0 or (low >= -0.5 and high >= DIM)) and high <= 255.5:
        wide = array.dtype.kind == "f" or array.dtype == np.uint16
        return Scale(1.0, 0.0, f"{found} taken as 0..255" if wide else "")
    if array.dtype == np.uint16:
        return Scale(1 / 257, 0.0, f"{found} scaled from 0..65535 to 0..255")
    raise DataError(
        f"{where}: pixels go from {low:g} to {high:g}; they must be in 0..255, [0, 1] or [-1, 1]. Add --stretch "
        "(stretch=True) to map the lowest to black and the highest to white."
    )


def _finished(images: Tensor, where: str, how: Conversion, done: list[str], array: Array) -> Converted:
    """Refuse what shows nothing, invert where asked, and say what was done and what looks odd."""
    low, high = int(images.min()), int(images.max())
    if low == high:
        raise DataError(f"{where}: every pixel is {low} as grey, so the images show nothing.")
    if high < DIM:
        raise DataError(
            f"{where}: pixels go from {float(array.min()):.9g} to {float(array.max()):.9g} ({array.dtype.name}), which "
            f"is all but black on the scale they seem to have; add --stretch (stretch=True) to map the lowest to black "
            "and the highest to white."
        )
    if how.invert:
        images, done = 255 - images, [*done, "inverted"]
    notes = [f"{where}: {'; '.join(done)}."] if done else []
    ground = int(edge(images).median())
    if ground > BRIGHT:
        way_out = "leave out --invert" if how.invert else "add --invert (invert=True)"
        notes.append(
            f"{where}: the ground is bright (at the edge of the images the median is {ground} of 255), and that of "
            f"MNIST is black; {way_out} to have it so."
        )
    return Converted(images, tuple(notes))
