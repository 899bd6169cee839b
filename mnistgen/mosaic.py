"""Images side by side in one, and how they show themselves in a notebook."""

import base64
import io
import sys
from math import ceil
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from mnistgen.errors import UsageError

SHOWN = 400  # images, of more, that a notebook shows
ACROSS = 20  # of them in a row


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


def by_class(images: Tensor, labels: Tensor, *, rows: int = 10, columns: int = 10) -> Tensor:
    """A grid with one row for each class, of the first `rows` classes, (H, W) uint8."""
    cells = []
    for label in labels.unique().tolist()[:rows]:
        some = images[labels == label][:columns]
        cells.append(torch.cat([some, some.new_zeros(columns - len(some), *some.shape[1:])]))
    return grid(torch.cat(cells), columns)


def png(image: Tensor, scale: int = 1) -> bytes:
    """A grey image (H, W) uint8 as a PNG file, each pixel `scale` wide."""
    large = image.cpu().repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    file = io.BytesIO()
    Image.fromarray(large.numpy()).save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(image: Tensor) -> str:
    """A grey image (H, W) uint8 as a data URI."""
    return uri(png(image))


def uri(content: bytes, kind: str = "png") -> str:
    """A picture's file as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def show_samples() -> None:
    """Where this is a notebook, let tensors of images, such as `sample` returns, show themselves as pictures."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        teach(shell.display_formatter)


def teach(formatter: Any) -> None:
    """Let a formatter of IPython show tensors of images."""
    formatter.formatters["image/png"].for_type(Tensor, picture)


def picture(images: Tensor) -> bytes | None:
    """A PNG of (n, 1, h, w) uint8, the first 400 of them; None for other tensors, which stay text."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 1 or not images.numel():
        return None
    return png(grid(images[:SHOWN], min(ACROSS, len(images))), scale=2)
