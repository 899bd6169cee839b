"""Interpolation, traversals and grids in a model's latent space, and reconstructions of given images."""

from collections.abc import Iterator, Sequence
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mnistgen.data import to_uint8
from mnistgen.errors import UsageError
from mnistgen.model import IMAGE_SHAPE, GenerativeModel, HasDecoder, HasLatents, HasReconstruction, Noise
from mnistgen.sampling.sampler import BATCH, calling, device_of, labels_of, pixels, require_images


def interpolate(
    model: GenerativeModel, start: int, end: int, *, steps: int = 10, rows: int = 8, seed: int = 0
) -> Tensor:
    """Interpolate from class `start` to class `end`: (rows * steps, 1, 28, 28) uint8, row by row.

    Codes move along the great circle, where a standard normal prior has its mass (White 2016), class weights along
    the straight line. Raises `UsageError` for a model without latents.
    """
    decoder = decoder_of(model)
    ends = labels_of(model, [start, end]).expand(rows, 2)
    z = Noise(seed, range(2 * rows), device_of(model)).normal(*decoder.latent_shape)
    return _interpolate(model, rearrange(z, "(ends r) ... -> r ends ...", ends=2), ends, steps)


def interpolate_images(model: GenerativeModel, images: Tensor, labels: Tensor, *, steps: int = 10) -> Tensor:
    """Interpolate from one image of each pair to the other: (rows * (steps + 2), 1, 28, 28) uint8, row by row.

    `images`: (rows, 2, 1, 28, 28) float in [-1, 1]; `labels`: (rows, 2). A row is the first image, `steps` decoded
    ones from its code to the other's, as in `interpolate`, and the other image. Their first and last are
    the two reconstructions. Raises `UsageError` for a model without latents.
    """
    coder = coder_of(model)
    if images.ndim != 5 or images.shape[1] != 2 or labels.shape != images.shape[:2]:
        raise UsageError(
            "Pairs are images (rows, 2, 1, 28, 28) and labels (rows, 2), "
            f"not {tuple(images.shape)} and {tuple(labels.shape)}."
        )
    z = _encode(model, coder, images.flatten(0, 1), labels.flatten())
    between = _interpolate(model, z.unflatten(0, (-1, 2)), labels, steps)
    first, last = to_uint8(images).cpu().split(1, dim=1)
    return torch.cat([first, between.unflatten(0, (-1, steps)), last], dim=1).flatten(0, 1)


def traverse(
    model: GenerativeModel, label: int, *, steps: int = 11, span: float = 3.0, coordinates: int = 64, seed: int = 0
) -> Tensor:
    """Vary one coordinate of a code at a time: (rows * steps, 1, 28, 28) uint8, one row per coordinate.

    Row j sets coordinate j of one random code to `steps` values from -span to span standard deviations; at most
    the first `coordinates` are shown. Raises `UsageError` for a model without latents, or whose code is an image of
    noise.
    """
    decoder = decoder_of(model)
    require_coordinates(decoder)
    y = labels_of(model, [label])
    base = Noise(seed, [0], device_of(model)).normal(*decoder.latent_shape).flatten()
    rows = min(coordinates, base.numel())
    z = base.expand(rows, steps, -1).clone()
    z[torch.arange(rows), :, torch.arange(rows)] = torch.linspace(-span, span, steps, device=base.device)
    z = z.view(rows * steps, *decoder.latent_shape)
    return _decode(model, z, y.expand(rows * steps))


def traverse_coordinate(
    model: GenerativeModel,
    coordinate: int,
    labels: Tensor | Sequence[int],
    *,
    steps: int = 11,
    span: float = 3.0,
    seed: int = 0,
) -> Tensor:
    """Vary one coordinate, counted from 0, for each class: (len(labels) * steps, 1, 28, 28) uint8, one row per label.

    Every row sets that coordinate of the code of `traverse` to the same values, so that rows differ by their class
    alone. Raises `UsageError` for a coordinate that there is not, and for a model without latents, or whose code is
    an image of noise.
    """
    decoder = decoder_of(model)
    require_coordinates(decoder)
    y = labels_of(model, labels)
    z = Noise(seed, [0], device_of(model)).normal(*decoder.latent_shape).flatten().repeat(steps, 1)
    if not 0 <= coordinate < z.shape[1]:
        raise UsageError(f"There is no coordinate {coordinate}; this model's codes have 0 to {z.shape[1] - 1}.")
    z[:, coordinate] = torch.linspace(-span, span, steps, device=z.device)
    z = z.repeat(len(y), 1).view(-1, *decoder.latent_shape)
    return _decode(model, z, y.repeat_interleave(steps))


def manifold(model: GenerativeModel, label: int, *, steps: int = 20) -> Tensor:
    """All codes of a model whose codes have two coordinates: (steps * steps, 1, 28, 28) uint8, row by row.

    Both coordinates take the quantiles of the standard normal at the middles of `steps` equally probable parts, so
    that every image stands for as much of the prior (Kingma & Welling 2014, figure 4). The first coordinate rises to
    the right and the second upwards. Raises `UsageError` where there is another number of coordinates, or no latents.
    """
    return _decode(model, *manifold_codes(model, label, steps=steps))


def manifold_codes(model: GenerativeModel, label: int, *, steps: int = 20) -> tuple[Tensor, Tensor]:
    """The codes of `manifold`, (steps * steps, *latent_shape), and their labels. Raises as it."""
    decoder = decoder_of(model)
    y = labels_of(model, [label])
    if prod(decoder.latent_shape) != 2:
        raise UsageError(
            f"A manifold is pictured of codes of 2 coordinates, and this model's have {prod(decoder.latent_shape)}; "
            "train one that has: mnistgen train vae --latent-dim 2"
        )
    quantiles = torch.special.ndtri((torch.arange(steps) + 0.5) / steps).to(device_of(model))
    second, first = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
    z = torch.stack([first, second], dim=-1).view(-1, *decoder.latent_shape)
    return z, y.expand(len(z))


def surface_codes(
    model: GenerativeModel, labels: Tensor | Sequence[int], *, steps: int = 12, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Codes between four of them, with their classes: (steps * steps, *latent_shape), and weights of the classes.

    `labels` (4,) are those of the corners, at the top left, top right, bottom left and bottom right. Both sides are
    interpolated from top to bottom, and then each row from left to right, as `interpolate` does. Raises `UsageError`
    for a model without latents.
    """
    decoder = decoder_of(model)
    y = labels_of(model, labels).to(device_of(model))
    corners = Noise(seed, range(4), device_of(model)).normal(*decoder.latent_shape)  # (4, *latent_shape)
    left, right = (_between(corners[side::2][None], steps)[0] for side in (0, 1))  # (steps, *latent_shape) each
    z = _between(torch.stack([left, right], dim=1), steps).flatten(0, 1)
    t = torch.linspace(0, 1, steps, device=z.device)
    down, across = (x.flatten()[:, None] for x in torch.meshgrid(t, t, indexing="ij"))  # (steps * steps, 1) each
    one_hot = F.one_hot(y, model.num_classes).to(z.dtype)
    upper, lower = (torch.lerp(one_hot[row], one_hot[row + 1], across) for row in (0, 2))
    return z, torch.lerp(upper, lower, down)


def decode_batches(model: GenerativeModel, z: Tensor, y: Tensor, *, batch_size: int = BATCH) -> Iterator[Tensor]:
    """Decode codes (n, *latent_shape), yielding each batch (b, 1, 28, 28) uint8 as it is done.

    `y`: (n,) int64, or (n, num_classes) weights of classes. Raises `UsageError` for a model without latents.
    """
    decoder = decoder_of(model)
    for zs, ys in zip(z.split(batch_size), y.to(z.device).split(batch_size), strict=True):
        with calling(model, "decode"):
            images = decoder.decode(zs, ys)
        yield pixels(images, len(zs), model, "decode")


def reconstruct(model: GenerativeModel, images: Tensor, labels: Tensor) -> Tensor:
    """Reconstruct each image by its code: (n, 1, 28, 28) float in [-1, 1] -> uint8.

    Raises `UsageError` for a model that cannot.
    """
    maker, device, y = reconstructor_of(model), device_of(model), labels_of(model, labels)
    require_images(images, y)
    with calling(model, "reconstruct"):
        batches = zip(images.split(BATCH), y.split(BATCH), strict=True)
        made = (maker.reconstruct(xs.to(device), ys.to(device)) for xs, ys in batches)
        return torch.cat([pixels(x, len(x), model, "reconstruct") for x in made])


def reconstructions(model: GenerativeModel, images: Tensor, labels: Tensor, *, columns: int = 10) -> Tensor:
    """Rows of `columns` originals, each above the row of their reconstructions: (2 * rows * columns, 1, 28, 28) uint8.

    `images`: (n, 1, 28, 28) float in [-1, 1]; `labels`: (n,). What is missing of the last row is black. Raises
    `UsageError` for a model that cannot.
    """
    both = torch.stack([to_uint8(images).cpu(), reconstruct(model, images, labels)])
    both = F.pad(both, (0, 0, 0, 0, 0, 0, 0, -len(images) % columns))
    rows: Tensor = rearrange(both, "two (r c) ... -> (r two c) ...", c=columns)
    return rows


def decoder_of(model: GenerativeModel) -> HasDecoder:
    """The model, as one that decodes codes. Raises `UsageError` where it does not."""
    if not isinstance(model, HasDecoder):
        raise UsageError(f"{type(model).__name__} has no latent codes, so there is nothing to interpolate or traverse.")
    return model


def reconstructor_of(model: GenerativeModel) -> HasReconstruction:
    """The model, as one that makes images again. Raises `UsageError` where it does not."""
    if not isinstance(model, HasReconstruction):
        raise UsageError(f"{type(model).__name__} has no latent codes of given images, so it cannot reconstruct them.")
    return model


def require_coordinates(decoder: HasDecoder) -> None:
    """Raise `UsageError` where a code is an image of noise: one coordinate of it is one pixel."""
    if decoder.latent_shape == IMAGE_SHAPE:
        raise UsageError(
            f"{type(decoder).__name__} begins with an image of noise, of which one coordinate, a pixel, changes next "
            "to nothing; `mnistgen draw` interpolate, fixed-latent and sweep show what its samples depend on."
        )


def coder_of(model: GenerativeModel) -> HasLatents:
    """The model, as one that encodes images, too. Raises `UsageError` where it does not."""
    if not isinstance(model, HasLatents):
        raise UsageError(
            f"{type(model).__name__} has no latent codes of given images, so it cannot interpolate between them."
        )
    return model


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation over all but the first two dimensions (r, s, ...), broadcasting; t in [0, 1].

    The direction moves along the great circle, the length along the straight line. Weights for the direction alone
    would make of codes of unequal length, where they point almost opposite ways, codes of any length.
    """
    dims = tuple(range(2, a.ndim))
    a_length, b_length = (torch.linalg.vector_norm(x, dim=dims, keepdim=True) for x in (a, b))
    a, b = a / a_length.clamp_min(1e-12), b / b_length.clamp_min(1e-12)
    angle = (a * b).sum(dims, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6).acos()
    direction = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
    between: Tensor = direction * torch.lerp(a_length, b_length, t)
    return between


def _encode(model: GenerativeModel, coder: HasLatents, x: Tensor, y: Tensor) -> Tensor:
    require_images(x, y)
    device, y = device_of(model), labels_of(model, y)
    with calling(model, "encode"):
        batches = zip(x.split(BATCH), y.split(BATCH), strict=True)
        return torch.cat([coder.encode(xs.to(device), ys.to(device)) for xs, ys in batches])


def _decode(model: GenerativeModel, z: Tensor, y: Tensor) -> Tensor:
    return torch.cat(list(decode_batches(model, z, y)))


def _between(z: Tensor, steps: int) -> Tensor:
    """From the one code of each row to the other: (r, 2, *latent_shape) -> (r, steps, *latent_shape)."""
    t = torch.linspace(0, 1, steps, device=z.device).view(1, steps, *[1] * (z.ndim - 2))
    return slerp(z[:, :1], z[:, 1:], t)


def _interpolate(model: GenerativeModel, z: Tensor, y: Tensor, steps: int) -> Tensor:
    """Between the two codes and labels of each row: (r, 2, *latent_shape), (r, 2) -> (r * steps, 1, 28, 28) uint8."""
    t = torch.linspace(0, 1, steps, device=z.device).view(1, steps, 1)
    one_hot = F.one_hot(y.to(z.device), model.num_classes).to(z.dtype)  # (r, 2, k)
    weights = torch.lerp(one_hot[:, :1], one_hot[:, 1:], t)
    return _decode(model, _between(z, steps).flatten(0, 1), weights.flatten(0, 1))
