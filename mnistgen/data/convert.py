"""From the array a file holds to (n, 1, 28, 28) uint8: at once where it is in the format, by `resize` where not."""

from typing import Any

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

_COLOURS = {1: "grayscale", 2: "grayscale and alpha", 3: "RGB", 4: "RGBA"}


def to_images(array: Array, where: str, resize: bool, *, rescale: bool = False) -> Tensor:
    """Images of any layout -> (n, 1, 28, 28) uint8.

    `array`: (n, h, w), (n, c, h, w), (n, h, w, c) with up to 4 channels, or (n, side * side). `where` begins the
    `DataError` that is raised where the images are not 28x28 grayscale uint8 and `resize` is off, or where they
    cannot be understood as images at all.

    `resize` stretches to 28x28 with antialiasing, weighs colours to grey (ITU-R BT.601), lays transparency over
    black, and scales floats from [0, 1] or [-1, 1], booleans, and 16-bit numbers to 0..255. `rescale` does only the
    last of these.
    """
    array, channels_last = _with_channels(array, where)
    n, *rest = array.shape
    h, w, c = rest if channels_last else (*rest[1:], rest[0])
    if n == 0 or h == 0 or w == 0:
        raise DataError(f"{where} holds no images: its shape is {array.shape}.")
    if n > LARGEST_COUNT:
        raise DataError(f"{where} holds {n} images; at most {LARGEST_COUNT} are read.")
    if max(h, w) > LARGEST_SIDE:
        raise DataError(f"{where} holds images of {h}x{w} pixels; the largest that are read are {LARGEST_SIDE} a side.")
    if (h, w, c) == (SIDE, SIDE, 1) and array.dtype == np.uint8:
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).reshape(n, 1, SIDE, SIDE)
    if not resize and not (rescale and (h, w, c) == (SIDE, SIDE, 1)):
        raise refused(where, h, w, f"{_COLOURS[c]} {array.dtype.name}")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} holds {array.dtype}, which is not a kind of pixel.")

    images = torch.empty(n, 1, SIDE, SIDE, dtype=torch.uint8)
    scale, offset = _range(array, where)
    step = max(1, CHUNK // (h * w * c))
    for start in range(0, n, step):
        part = torch.from_numpy(array[start : start + step].astype(np.float32)) * scale + offset
        part = _grey(part.movedim(3, 1) if channels_last else part)  # (b, 1, h, w)
        part = F.interpolate(part, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        images[start : start + step] = part.round().clamp(0, 255).to(torch.uint8)
    return images


def refused(where: str, h: int, w: int, kind: str) -> DataError:
    """The error for images that are not in the format: `kind` says their colours and numbers."""
    return DataError(
        f"{where}: the images are {h}x{w} {kind}; MNIST-format images are 28x28 grayscale uint8. "
        "Add --resize (resize=True) to convert them."
    )


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


def _range(array: Array, where: str) -> tuple[float, float]:
    """(scale, offset) such that array * scale + offset is in 0..255."""
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "b":
        return 255.0, 0.0
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return 255.0, 0.0
    if array.dtype.kind == "f" and low >= -1 and high <= 1:
        return 127.5, 127.5
    if low >= 0 and high <= 255:
        return 1.0, 0.0
    if array.dtype == np.uint16:
        return 1 / 257, 0.0
    raise DataError(f"{where}: pixels go from {low:g} to {high:g}; they must be in 0..255, [0, 1] or [-1, 1].")


def _grey(x: Tensor) -> Tensor:
    """(b, c, h, w) in 0..255 with c in 1..4 -> (b, 1, h, w)."""
    c = x.shape[1]
    colour, alpha = (x[:, :-1], x[:, -1:] / 255) if c in (2, 4) else (x, None)
    if colour.shape[1] == 3:
        weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)  # ITU-R BT.601
        colour = (colour * weights).sum(1, keepdim=True)
    return colour if alpha is None else colour * alpha
