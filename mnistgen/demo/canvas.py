"""The canvas that is drawn on in the browser: white ink on black, and orange marks; a PNG as a data URI outside."""

import base64
import binascii
import io
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mnistgen.errors import UsageError
from mnistgen.mosaic import data_uri

SIDE = 280  # pixels, ten for each one of MNIST's
LARGEST = 4096
MARK = (255, 122, 0)  # the colour of what is to be filled in
NEAR = 120  # of a colour to `MARK`, the sum over red, green and blue: brushes have soft edges
SHARE = 0.15  # of a pixel; with more of it marked, it is filled in


class Canvas(NamedTuple):
    """What is on a canvas of white and grey on black, with marks."""

    image: Tensor  # (1, 28, 28) uint8, black where marked
    mask: Tensor  # (1, 28, 28) bool, true where marked


def read_canvas(rgba: Tensor) -> Canvas:
    """A drawn canvas (h, w, 4) uint8 in MNIST's format; what is transparent is black."""
    if rgba.ndim != 3 or rgba.shape[2] != 4:
        raise UsageError(f"A canvas is (h, w, 4), and this is {tuple(rgba.shape)}.")
    colour = rgba[..., :3].float() * rgba[..., 3:].float() / 255  # (h, w, 3)
    marked = ((colour - torch.tensor(MARK)).abs().sum(-1) < NEAR).float()
    grey = colour.amin(-1) * (1 - marked)  # the edge of a mark is no ink
    small = F.interpolate(torch.stack([grey, marked])[None], (28, 28), mode="area")[0]
    share = small[1:]
    image = (small[:1] / (1 - share).clamp_min(1e-3)).clamp(0, 255)
    mask = share > SHARE
    return Canvas(image.masked_fill(mask, 0).round().to(torch.uint8), mask)


def decode(text: str | None) -> Tensor:
    """The canvas of a data URI, (h, w, 4) uint8; an empty one where there is none. Raises `UsageError` if it is bad."""
    if not text:
        return torch.zeros(SIDE, SIDE, 4, dtype=torch.uint8)
    try:
        with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2], validate=True)), formats=["PNG"]) as image:
            if max(image.size) > LARGEST:
                raise UsageError(f"The drawing has {image.size[0]}x{image.size[1]} pixels; at most {LARGEST} a side.")
            return torch.from_numpy(np.array(image.convert("RGBA")))
    except (OSError, ValueError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise UsageError("The drawing is no PNG as a data URI, data:image/png;base64,...") from error


def encode(image: Tensor) -> str:
    """An image (1, 28, 28) uint8, as large as the canvas, as a data URI."""
    large = F.interpolate(image[None].float(), (SIDE, SIDE), mode="bicubic", align_corners=False)
    return data_uri(large[0, 0].round().clamp(0, 255).to(torch.uint8))


def grey_of(rgba: Tensor) -> Tensor:
    """A drawn canvas (h, w, 4) uint8 as grey (h, w) uint8; what is transparent is black."""
    colour = rgba[..., :3].float().mean(-1) * rgba[..., 3].float() / 255
    return colour.round().to(torch.uint8)
