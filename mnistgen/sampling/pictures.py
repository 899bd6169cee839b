"""Images side by side, as PNG and GIF files."""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from math import ceil
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from mnistgen.errors import UsageError
from mnistgen.files import atomic_file
from mnistgen.mosaic import grid as grid

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**26)  # of a picture; Pillow, as other viewers, opens no larger one
INK, GAP = 200, 6  # the grey of words, and pixels around them
TEXT = (8, 15)  # the smallest and the largest size of letters in pixels


def require_pixels(pixels: int, scale: int) -> None:
    """Raise `UsageError` where a picture of so many pixels, each `scale` wide, is larger than what can be opened."""
    if scale < 1:
        raise UsageError(f"scale is {scale}; it must be at least 1.")
    if pixels * scale**2 > MOST_PIXELS:
        raise UsageError(
            f"A picture of {pixels * scale**2:,} pixels is larger than what Pillow and most viewers open "
            f"({MOST_PIXELS:,}); take a smaller --scale, or fewer images."
        )


def captioned(
    image: Tensor, rows: Sequence[str] = (), columns: Sequence[str] = (), *, title: str = "", scale: int = 1
) -> Tensor:
    """A `grid` (h, w) uint8, each pixel `scale` wide, with words left of its rows and above its columns: (H, W).

    The grid is at the bottom right. A word that does not fit above its column is set smaller, then cut.
    """
    require_pixels(image.numel(), scale)
    large = image.cpu().repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    if not (any(rows) or any(columns) or title):
        return large
    height, width = large.shape
    row, column = height / max(1, len(rows)), width / max(1, len(columns))
    beside = _font(rows, 10**6, row)
    above = _font(columns, column - GAP, 10**6)
    left = ceil(max((beside.getlength(word) for word in rows), default=0)) + 2 * GAP * any(rows)
    line = sum(above.getmetrics()) + GAP
    top = line * any(columns) + (sum(_sized(TEXT[1]).getmetrics()) + GAP) * bool(title)
    page = Image.new("L", (left + width, top + height))
    page.paste(Image.fromarray(large.numpy()), (left, top))
    pen = ImageDraw.Draw(page)
    for number, word in enumerate(rows):
        pen.text((left - GAP, top + (number + 0.5) * row), word, INK, beside, anchor="rm")
    for number, word in enumerate(columns):
        fitting = _cut(word, above, column - 1)
        pen.text((left + (number + 0.5) * column, top - GAP / 2), fitting, INK, above, anchor="md")
    if title:
        pen.text((left + GAP, GAP / 2), _cut(title, _sized(TEXT[1]), width - GAP), INK, _sized(TEXT[1]), anchor="la")
    return torch.from_numpy(np.array(page))


@cache
def _sized(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UsageError("This Pillow was built without FreeType, which captions need; leave them out with --plain.")
    return font


def _font(words: Sequence[str], width: float, height: float) -> ImageFont.FreeTypeFont:
    """The largest size at which all words fit, or the smallest there is."""
    smallest, largest = TEXT
    for size in range(largest, smallest, -1):
        font = _sized(size)
        if sum(font.getmetrics()) <= height and all(font.getlength(word) <= width for word in words):
            return font
    return _sized(smallest)


def _cut(word: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    while word and font.getlength(word) > width:
        word = word[:-1]
    return word


def save_png(path: str | Path, image: Tensor, metadata: Mapping[str, str] | None = None, *, scale: int = 1) -> None:
    """Write (h, w) uint8 as a grey PNG, each pixel `scale` pixels wide; `metadata` becomes text chunks."""
    require_pixels(image.numel(), scale)
    info = PngInfo()
    for key, value in (metadata or {}).items():
        info.add_itxt(key, value)
    picture = Image.fromarray(image.cpu().numpy())
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    with atomic_file(Path(path)) as temporary:
        picture.save(temporary, "PNG", pnginfo=info)


def save_gif(
    path: str | Path,
    frames: Sequence[Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    milliseconds: int = 150,
    scale: int = 1,
) -> None:
    """Write frames (h, w) uint8 as an endless grey GIF, `milliseconds` each and the last one ten times as long.

    Each pixel is `scale` pixels wide; `metadata` becomes lines "key: value" of the comment. Equal neighbours are one
    frame, held as long as both. Raises `UsageError` where there are no frames, or they differ in size.
    """
    comment = "\n".join(f"{key}: {value}" for key, value in (metadata or {}).items())
    content = gif(frames, comment, milliseconds=milliseconds, scale=scale)
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(content)


def gif(frames: Sequence[Tensor], comment: str = "", *, milliseconds: int = 150, scale: int = 1) -> bytes:
    """The content of what `save_gif` writes."""
    if len({frame.shape for frame in frames}) != 1:
        raise UsageError("A GIF needs at least one frame, and all of one size.")
    large = [frame.cpu().repeat_interleave(scale, 0).repeat_interleave(scale, 1) for frame in frames]
    first, *rest = (Image.fromarray(frame.numpy()) for frame in large)
    durations, file = [milliseconds] * len(rest) + [10 * milliseconds], io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, comment=comment.encode())
    return file.getvalue()
