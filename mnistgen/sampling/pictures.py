"""Images side by side, as PNG and GIF files."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from mnistgen.errors import UsageError
from mnistgen.files import atomic_file


def grid(images: Tensor, columns: int, *, padding: int = 2) -> Tensor:
    """Images in rows of `columns`: (n, 1, h, w) uint8 -> (H, W) uint8, on black."""
    if len(images) == 0 or columns < 1:
        raise UsageError("A grid needs at least one image and one column.")
    rows = ceil(len(images) / columns)
    height, width = images.shape[-2:]
    cells = torch.zeros(rows * columns, height + padding, width + padding, dtype=torch.uint8)
    cells[: len(images), padding // 2 : padding // 2 + height, padding // 2 : padding // 2 + width] = images[:, 0].cpu()
    image: Tensor = rearrange(cells, "(r c) h w -> (r h) (c w)", c=columns)
    return image


def save_png(path: str | Path, image: Tensor, metadata: Mapping[str, str] | None = None, *, scale: int = 1) -> None:
    """Write (h, w) uint8 as a grey PNG, each pixel `scale` pixels wide; `metadata` becomes text chunks."""
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
    if len({frame.shape for frame in frames}) != 1:
        raise UsageError("A GIF needs at least one frame, and all of one size.")
    large = [frame.cpu().repeat_interleave(scale, 0).repeat_interleave(scale, 1) for frame in frames]
    first, *rest = (Image.fromarray(frame.numpy()) for frame in large)
    durations = [milliseconds] * len(rest) + [10 * milliseconds]
    comment = "\n".join(f"{key}: {value}" for key, value in (metadata or {}).items()).encode()
    with atomic_file(Path(path)) as temporary:
        first.save(temporary, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, comment=comment)
