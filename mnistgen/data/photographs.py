"""From a photograph of ink on paper to MNIST's format, in the steps by which MNIST was made of scanned pages.

Invert, so that ink is light on black; crop to the ink; fit it into 20x20 pixels, keeping its shape; place it in
28x28 so that its centre of mass is in the middle (http://yann.lecun.com/exdb/mnist).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mnistgen.data.convert import SIDE, Array
from mnistgen.errors import DataError

WORKING_SIDE = 512  # a larger photograph is made smaller first
CENTRE = 14  # the row and the column, from 0, of the centre of mass: that of MNIST's images is 14.0 on average
BOX = 20  # the ink's longer side in the result
STROKE = 0.35  # of the picture's shorter side; ink is thinner, and what is wider is ground
FAINTEST = 20.0  # grey levels between ink and paper that are needed
SPECK = 0.02  # of the area of the largest piece of ink; what is smaller is dust


class Steps(NamedTuple):
    """One photograph on its way to MNIST's format; all but the last of any size, (h, w) uint8."""

    grey: Tensor  # as it was taken
    ink: Tensor  # the ink light on black, without paper and shadows
    cropped: Tensor  # to the ink
    result: Tensor  # (28, 28): fitted into 20x20, its centre of mass in the middle


def photograph(grey: Array, where: str) -> Steps:
    """The steps from `grey`, (h, w) in 0..255 of dark ink on a light ground or light on dark, to MNIST's format.

    The ground may be unevenly lit. Raises `DataError`, which `where` begins, where no ink is found.
    """
    taken = _smaller(torch.from_numpy(np.array(grey, dtype=np.float32)))
    ink, mask = _ink(taken.numpy(), where)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    result = _centred(_boxed(torch.from_numpy(cropped)))
    return Steps(*(_to_uint8(step) for step in (taken, torch.from_numpy(ink), torch.from_numpy(cropped), result)))


def _smaller(x: Tensor) -> Tensor:
    """(h, w), at most `WORKING_SIDE` a side."""
    scale = WORKING_SIDE / max(x.shape)
    return _resized(x, scale) if scale < 1 else x


def _resized(x: Tensor, scale: float) -> Tensor:
    size = tuple(max(1, round(side * scale)) for side in x.shape)
    return F.interpolate(x[None, None], size, mode="bilinear", antialias=True, align_corners=False)[0, 0]


def _ink(grey: Array, where: str) -> tuple[Array, Array]:
    """The ink in 0..255 on black, and where it is, (h, w) each."""
    from scipy import ndimage  # takes a while, and few commands need it

    border = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    ground = float(np.median(border))
    width = max(3, round(STROKE * min(grey.shape)))
    # What is thinner than `width` and darker (or lighter) than what surrounds it: ink, whatever the light.
    top_hat = ndimage.black_tophat if ground - grey.min() >= grey.max() - ground else ndimage.white_tophat
    ink = top_hat(grey, size=(width, width), mode="nearest")
    if ink.max() < FAINTEST:
        raise DataError(
            f"{where}: no ink is found: nothing is darker or lighter than its surroundings by {FAINTEST:g} grey levels."
        )
    threshold = _otsu(ink)
    noise = ink[ink <= threshold]
    floor = min(float(np.median(noise) + 4 * np.median(np.abs(noise - np.median(noise)))), threshold)
    full = float(np.percentile(ink[ink > threshold], 75))
    ink = ((ink - floor) / max(full - floor, 1.0)).clip(0, 1) * 255
    pieces, count = ndimage.label(ink > 255 * 0.2, np.ones((3, 3)))
    areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    mask = np.isin(pieces, 1 + np.flatnonzero(areas >= SPECK * areas.max()))
    near = ndimage.binary_dilation(mask, iterations=max(1, min(grey.shape) // 100))  # with the soft edges of strokes
    return np.where(near, ink, 0).astype(np.float32), near & (ink > 0)


def _otsu(x: Array) -> float:
    """The threshold that divides values into two groups of least variance (Otsu, 1979)."""
    counts, edges = np.histogram(x, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = below[-1] + counts[-1] - below
    sums = np.cumsum(counts * centres)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (mean_above - mean_below) ** 2))])


def _boxed(x: Tensor) -> Tensor:
    """(h, w) with its longer side `BOX`, in the shape that it has, and its brightest pixel white."""
    boxed = _resized(x, BOX / max(x.shape))
    return boxed * (255 / boxed.max())


def _centred(x: Tensor) -> Tensor:
    """(h, w) in (28, 28) on black, the centre of mass as near to the middle as whole pixels and the edges allow."""
    place = torch.zeros(SIDE, SIDE)
    start = []
    for axis, size in enumerate(x.shape):
        mass = x.sum(1 - axis)
        centre = float((mass * torch.arange(size)).sum() / mass.sum())
        start.append(min(max(round(CENTRE - centre), 0), SIDE - size))
    place[start[0] : start[0] + x.shape[0], start[1] : start[1] + x.shape[1]] = x
    return place


def _to_uint8(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8)
