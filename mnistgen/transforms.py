"""Classical augmentation: batches of images in, as many distorted images out.

An image is read at the places p(u) of the output's pixels u, p(u) = A u + t + d(u): an affine map and a smooth random
displacement of its own for each image (Simard et al. 2003), composed into one resampling of the whole batch. Lengths
are in pixels of a 28x28 image, and what lies outside an image is background.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mnistgen.errors import UsageError

BACKGROUND = -1.0  # the value of an empty pixel in model space
KNOT_SPACING = 4.0  # pixels between the random numbers that elastic displacements interpolate, and their smoothness


@dataclass(frozen=True)
class Distortion:
    """The strength of distortions. Each image gets random parameters of its own; all zero is the identity."""

    rotation: float = 0.0
    """Augmentation: largest rotation either way, in degrees."""
    zoom: float = 0.0
    """Augmentation: largest relative change of size, of width and height independently, 0.1 for 0.9 to 1.1."""
    shear: float = 0.0
    """Augmentation: largest horizontal shift of a row by its height, 0.2 for 2 pixels in 10."""
    translation: float = 0.0
    """Augmentation: largest shift in each direction, in pixels."""
    elastic: float = 0.0
    """Augmentation: largest standard deviation of the elastic displacement, in pixels."""
    untouched: float = 0.0
    """Augmentation: share of images that stay as they are; resampling blurs all others, and test images are crisp."""

    def __post_init__(self) -> None:
        for name in ("rotation", "zoom", "shear", "translation", "elastic"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be zero or more.")
        if self.zoom >= 1:
            raise UsageError(f"zoom is {self.zoom}; it must be below 1.")
        if not 0 <= self.untouched <= 1:
            raise UsageError(f"untouched is {self.untouched}; it must be from 0 to 1.")


def distort(x: Tensor, by: Distortion) -> Tensor:
    """Distort each image at random, (b, c, h, w) in [-1, 1] -> the same, with torch's global generator."""
    # Places are computed in full precision: bfloat16 knows a coordinate to a twentieth of a pixel only.
    with torch.autocast(x.device.type, enabled=False):
        theta = _random_affine(len(x), by, x.device)
        displacement = _random_displacement(x, by)
        if theta is None and displacement is None:
            return x
        distorted = warp(x, theta, displacement)
        if by.untouched:
            stays = torch.rand(len(x), device=x.device) < by.untouched
            distorted = torch.where(stays.view(-1, *[1] * (x.ndim - 1)), x, distorted)
        return distorted


def _random_affine(b: int, by: Distortion, device: torch.device) -> Tensor | None:
    if not (by.rotation or by.zoom or by.shear or by.translation):
        return None
    angle, zoom_x, zoom_y, shear, dx, dy = (2 * torch.rand(b, 6, device=device) - 1).unbind(1)
    shift = by.translation
    return affine(
        angle * by.rotation, 1 + zoom_x * by.zoom, 1 + zoom_y * by.zoom, shear * by.shear, dx * shift, dy * shift
    )


def _random_displacement(x: Tensor, by: Distortion) -> Tensor | None:
    if not by.elastic:
        return None
    b, _, height, width = x.shape
    strength = by.elastic * torch.rand(b, 1, device=x.device)
    knots = torch.randn(b, 2, knot_count(height), knot_count(width), device=x.device)
    return strength.view(b, 1, 1, 1) * smooth(knots, height, width)


def affine(angle: Tensor, scale_x: Tensor, scale_y: Tensor, shear: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """The map from places in the output to places in the input, (b, 2, 3) over pixels from the centre.

    What it does to an image, in this order: size by `scale_x` and `scale_y`, shear, a counter-clockwise rotation by
    `angle` degrees, and a shift by `dx` pixels to the right and `dy` down. All arguments are (b,).
    """
    cos, sin = (angle * (math.pi / 180)).cos(), (angle * (math.pi / 180)).sin()
    # forward: u = R S p + t with R = ((cos, sin), (-sin, cos)), for y points down; S = ((sx, shear sy), (0, sy)).
    # inverse: p = S^-1 R^T (u - t)
    a, b = cos / scale_x, -sin / scale_x
    c, d = sin / scale_y, cos / scale_y
    a, b = a - shear / scale_x * sin, b - shear / scale_x * cos
    linear = torch.stack([a, b, c, d], 1).view(-1, 2, 2)
    shift = torch.stack([dx, dy], 1)[:, :, None]
    return torch.cat([linear, -linear @ shift], 2)


def smooth(knots: Tensor, height: int, width: int) -> Tensor:
    """White noise on a coarse grid, smoothed to every pixel: (b, 2, k, l) -> (b, 2, height, width).

    Gaussian interpolation d = U_h N U_w^T with rows of unit length, so that standard normal knots give displacements
    of variance one at every pixel.
    """
    rows, columns = (_interpolation(size).to(knots.device) for size in (height, width))
    return rows @ knots @ columns.T


def warp(x: Tensor, theta: Tensor | None = None, displacement: Tensor | None = None) -> Tensor:
    """Read each image at p(u) = theta (u, 1) + displacement(u), bilinearly, (b, c, h, w) -> (b, c, h, w).

    `theta`: (b, 2, 3), see `affine`; `displacement`: (b, 2, h, w), horizontal first; both in pixels.
    """
    b, _, height, width = x.shape
    u = _pixels(height, width).to(x.device)  # (3, h * w)
    p = (theta @ u if theta is not None else u[:2].expand(b, -1, -1)).view(b, 2, height, width)
    if displacement is not None:
        p = p + displacement
    size = torch.tensor([width, height], dtype=p.dtype, device=p.device)
    grid = p.permute(0, 2, 3, 1) * (2 / size)  # (b, h, w, 2); -1 and 1 are the outer edges
    ink = F.grid_sample(x - BACKGROUND, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (ink + BACKGROUND).clamp(-1, 1)


def shifts(images: Tensor) -> Tensor:
    """Move each image by at most a pixel each way, on black pixels: (n, 1, h, w) uint8 -> (9 n, 1, h, w)."""
    height, width = images.shape[-2:]
    wide = F.pad(images, (1, 1, 1, 1))
    return torch.cat([wide[..., i : i + height, j : j + width] for i in range(3) for j in range(3)])


def knot_count(size: int) -> int:
    """Random numbers along a side of `size` pixels, with one beyond either edge."""
    return math.ceil((size - 1) / KNOT_SPACING) + 3


@cache
def _interpolation(size: int) -> Tensor:
    """(size, knot_count(size)): Gaussian weights of the knots at each pixel, rows of length one."""
    knots = (torch.arange(knot_count(size)) - (knot_count(size) - 1) / 2) * KNOT_SPACING
    pixels = torch.arange(size) - (size - 1) / 2
    weights = torch.exp(-((pixels[:, None] - knots) ** 2) / (2 * KNOT_SPACING**2))
    lengths: Tensor = weights.norm(dim=1, keepdim=True)
    return weights / lengths


@cache
def _pixels(height: int, width: int) -> Tensor:
    """The places of pixel centres from the centre of the image, x, y and 1: (3, height * width)."""
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.ones(height * width)])
