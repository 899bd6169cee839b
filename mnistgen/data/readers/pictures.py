"""Image files: every format that Pillow reads, upright as their EXIF says, as 28x28 grey."""

import io
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mnistgen.data.convert import (
    DARK_INK,
    LARGEST_SIDE,
    SIDE,
    Array,
    Conversion,
    Converted,
    fitted,
    grey,
    refused,
    resized,
    to_images,
)
from mnistgen.data.photographs import WORKING_SIDE, Steps, photograph
from mnistgen.data.readers.files import looks_like, opened, size_of
from mnistgen.errors import DataError

LARGEST_PICTURE = 2**26  # bytes of a file with one picture
LARGEST_PHOTOGRAPH = 2**14  # pixels a side

_MODES = {"1": "1-bit", "L": "grayscale", "LA": "grayscale and alpha", "P": "palette", "RGB": "RGB", "RGBA": "RGBA"}
# Told by their content, whatever the name; other formats, some of which any bytes could be, only by their name too.
_BY_CONTENT = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
_NOT_READ = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}  # they run another program, or Pillow has no decoder
_ORIENTATION = 0x0112  # of EXIF


@lru_cache
def formats() -> dict[str, str]:
    """The endings of names that pictures have, .png and so on, and their formats in Pillow."""
    Image.init()
    there = {*Image.OPEN, "MPO"} - _NOT_READ  # MPO: a JPEG of several pictures, as some telephones write it
    return {suffix: name for suffix, name in Image.registered_extensions().items() if name in there}


def is_image(path: Path) -> bool:
    """Whether the name is that of a picture."""
    return path.suffix.lower() in formats() and not path.name.startswith(".")


class Picture(NamedTuple):
    """One picture in the format, and what was done to it."""

    pixels: Array  # (28, 28) uint8, or uint16 where the file has as many levels
    done: tuple[str, ...] = ()


def read_pictures(files: Iterable[Path], where: str, how: Conversion) -> Converted:
    """Pictures -> (n, 1, 28, 28) uint8. What is said of several pictures is said once, with their number."""
    return together([read_picture(file, how) for file in files], where, how)


def read_picture(path: Path, how: Conversion) -> Picture:
    """One picture as 28x28 grey. Raises `DataError` where it is none, or of another size without `how.resize`."""
    return decode(_content(path), str(path), how, path.suffix)


def read_photograph(path: Path) -> Steps:
    """One picture of ink on paper, and the steps to MNIST's format. Raises `DataError` where there is no ink."""
    return _steps(_content(path), str(path), path.suffix)


def together(pictures: Iterable[Picture], where: str, how: Conversion) -> Converted:
    """Pictures as one tensor, by the same rule as arrays."""
    pictures = list(pictures)
    pixels = [picture.pixels for picture in pictures]
    if any(array.dtype == np.uint16 for array in pixels):
        pixels = [array if array.dtype == np.uint16 else array.astype(np.uint16) * 257 for array in pixels]
    done = Counter(what for picture in pictures for what in picture.done)
    said = [f"{count} of {len(pixels)} pictures {what}" for what, count in done.items()]
    images, notes = to_images(np.stack(pixels), where, how)
    return Converted(images, ((f"{where}: {'; '.join(said)}.",) if said else ()) + notes)


def decode(data: bytes, where: str, how: Conversion, suffix: str = "") -> Picture:
    """The picture that a file's content is. Raises as `read_picture`, with `where` before it."""
    if how.photographs:
        return Picture(_steps(data, where, suffix).result.numpy(), ("brought from a photograph to MNIST's format",))
    image, done = _opened(data, where, suffix, LARGEST_SIDE)
    w, h = image.size
    if (w, h) != (SIDE, SIDE):
        if not how.resize:
            way_out = ", or --photographs (photographs=True) if they are of ink on paper"
            raise refused(where, h, w, _MODES.get(image.mode, f"of mode {image.mode}"), way_out)
        done += (resized(h, w),)
    levels, top, said = _levels(image, where)
    pixels = fitted(levels).round().clamp(0, top).numpy()[0, 0]
    return Picture(pixels.astype(np.uint8 if top == 255 else np.uint16), done + said)


def _steps(data: bytes, where: str, suffix: str) -> Steps:
    image, _ = _opened(data, where, suffix, LARGEST_PHOTOGRAPH, WORKING_SIDE)
    levels, top, _ = _levels(image, where)
    return photograph(levels[0, 0].numpy() * (255 / top), where)


def _levels(image: Image.Image, where: str) -> tuple[Tensor, int, tuple[str, ...]]:
    """Grey (1, 1, h, w) in 0..255 or 0..65535, which of the two, and what was done."""
    with _broken(where):
        if image.mode.startswith("I"):  # 16-bit grayscale
            array = np.asarray(image).clip(0, 65535).astype(np.float32)
            return torch.from_numpy(array)[None, None], 65535, ()
        if image.mode == "F":
            array = np.asarray(image)
            return to_images(array[None], where, Conversion(resize=True)).images.float(), 255, ()
        plain = image.mode in ("1", "L") and "transparency" not in image.info
        array = np.asarray(image.convert("L" if plain else "RGBA")).astype(np.float32)
    if plain:
        return torch.from_numpy(array)[None, None], 255, ()
    coloured = np.ptp(array[..., :3] * (array[..., 3:] > 0), axis=-1).any()
    transparent = (array[..., 3] < 255).any()
    levels, dark = grey(torch.from_numpy(array).permute(2, 0, 1)[None])
    said: tuple[str, ...] = ("converted from colour to grey",) if coloured else ()
    if dark:
        said += (f"with {DARK_INK}",)
    elif transparent:
        said += ("with transparency laid over black",)
    return levels, 255, said


def _content(path: Path) -> bytes:
    with opened(path) as file:
        size = size_of(file)
        if size > LARGEST_PICTURE:
            raise DataError(f"{path} has {size:,} bytes; the limit for a picture is {LARGEST_PICTURE:,}.")
        return file.read()


def _opened(
    data: bytes, where: str, suffix: str, largest: int, enough: int | None = None
) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture, upright, and what was done; `enough`: pixels a side that a JPEG may be made smaller to."""
    own = formats().get(suffix.lower(), "PNG")
    with _broken(where, data[:4]):
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=list(dict.fromkeys([*_BY_CONTENT, own])))
        w, h = image.size
        if max(w, h) > largest:
            raise DataError(f"{where}: the picture is {h}x{w} pixels; the largest that are read are {largest} a side.")
        if enough:
            image.draft("L", (enough, enough))
        done: tuple[str, ...] = (
            ("of several frames, of which the first is taken",) if getattr(image, "is_animated", False) else ()
        )
        image.load()
        if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
            done += ("turned upright, as their EXIF says",)
        return ImageOps.exif_transpose(image), done


@contextmanager
def _broken(where: str, start: bytes = b"") -> Iterator[None]:
    """Whatever a decoder raises becomes a `DataError`: Pillow's raise errors of any type on a broken header."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)
        found = looks_like(start) if unknown else str(error)
        if unknown and found.endswith(" image"):
            found = f"{found}, but its header is broken"
        raise DataError(f"{where} cannot be read as a picture: {found}.") from error
