"""Seeded sampling, one seed an image, and the pictures made of samples."""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from mnistgen.data import to_uint8
from mnistgen.errors import ContractError, UsageError
from mnistgen.files import atomic_file
from mnistgen.model import GenerativeModel, HasLatents, Noise

BATCH = 250


def sample(
    model: GenerativeModel, labels: Tensor | Sequence[int], *, seed: int = 0, batch_size: int = BATCH, **knobs: Any
) -> Tensor:
    """Draw one image for each label: (n,) -> (n, 1, 28, 28) uint8 on the CPU, 0 black and 255 white.

    Image i depends on `(seed, i)` and its label alone, not on the batch size. `knobs` go to `model.sample`. Raises
    `UsageError` on a label that the model does not have.
    """
    batches = list(sample_batches(model, labels, seed=seed, batch_size=batch_size, **knobs))
    return torch.cat(batches) if batches else torch.empty(0, 1, 28, 28, dtype=torch.uint8)


def sample_batches(
    model: GenerativeModel, labels: Tensor | Sequence[int], *, seed: int = 0, batch_size: int = BATCH, **knobs: Any
) -> Iterator[Tensor]:
    """`sample`, yielding each batch (b, 1, 28, 28) uint8 as it is done."""
    y = _labels(model, labels)
    device = _device(model)
    for start in range(0, len(y), batch_size):
        indices = range(start, min(start + batch_size, len(y)))
        noise = Noise(seed, indices, device)
        with torch.no_grad(), _Eval(model):
            images = model.sample(y[indices.start : indices.stop].to(device), noise=noise, **knobs)
        if images.shape != (len(indices), 1, 28, 28):
            raise ContractError(
                f"{type(model).__name__}.sample returned {tuple(images.shape)} for {len(indices)} labels."
            )
        yield to_uint8(images).cpu()


def interpolate(
    model: GenerativeModel, start: int, end: int, *, steps: int = 10, rows: int = 8, seed: int = 0
) -> Tensor:
    """Walk from digits `start` to digits `end`: (rows * steps, 1, 28, 28) uint8, row by row.

    Codes move along the great circle, where a standard normal prior has its mass (White 2016), class weights along
    the straight line. Raises `UsageError` for a model without latents.
    """
    coder = _coder(model)
    ends = _labels(model, [start, end])
    noise = Noise(seed, range(2 * rows), _device(model)).normal(*coder.latent_shape)
    t = torch.linspace(0, 1, steps, device=noise.device)
    z = slerp(noise[:rows, None], noise[rows:, None], t.view(1, -1, *[1] * len(coder.latent_shape)))
    one_hot = torch.eye(model.num_classes, device=noise.device)[ends.to(noise.device)]
    weights = torch.lerp(one_hot[0], one_hot[1], t[:, None]).expand(rows, -1, -1)
    return _decode(model, coder, rearrange(z, "r s ... -> (r s) ..."), rearrange(weights, "r s k -> (r s) k"))


def traverse(
    model: GenerativeModel, label: int, *, steps: int = 11, span: float = 3.0, coordinates: int = 64, seed: int = 0
) -> Tensor:
    """Vary one coordinate of a code at a time: (rows * steps, 1, 28, 28) uint8, one row a coordinate.

    Row j sets coordinate j of one random code to `steps` values from -span to span standard deviations; at most
    the first `coordinates` are shown. Raises `UsageError` for a model without latents.
    """
    coder = _coder(model)
    y = _labels(model, [label])
    base = Noise(seed, [0], _device(model)).normal(*coder.latent_shape).flatten()
    rows = min(coordinates, base.numel())
    z = base.expand(rows, steps, -1).clone()
    z[torch.arange(rows), :, torch.arange(rows)] = torch.linspace(-span, span, steps, device=base.device)
    z = z.view(rows * steps, *coder.latent_shape)
    return _decode(model, coder, z, y.to(base.device).expand(rows * steps))


def reconstruct(model: GenerativeModel, images: Tensor, labels: Tensor) -> Tensor:
    """`decode(encode(images))`: (n, 1, 28, 28) float in [-1, 1] -> uint8. `UsageError` without latents."""
    coder, device = _coder(model), _device(model)
    with torch.no_grad(), _Eval(model):
        return to_uint8(coder.decode(coder.encode(images.to(device), labels.to(device)), labels.to(device))).cpu()


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation over all but the first two dimensions (r, s, ...), broadcasting; t in [0, 1]."""
    dims = tuple(range(2, a.ndim))
    cosine = (a * b).sum(dims, keepdim=True) / (a.norm(dim=dims, keepdim=True) * b.norm(dim=dims, keepdim=True))
    angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    between: Tensor = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
    return between


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


class _Eval:
    """Eval mode inside, the caller's mode afterwards."""

    def __init__(self, model: GenerativeModel) -> None:
        self.model, self.training = model, model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.training)


def _device(model: GenerativeModel) -> torch.device:
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def _labels(model: GenerativeModel, labels: Tensor | Sequence[int]) -> Tensor:
    y = torch.as_tensor(labels, dtype=torch.int64).cpu()
    if y.ndim != 1:
        raise UsageError(f"Labels are a row of integers, (n,), not {tuple(y.shape)}.")
    if len(y) and not (int(y.min()) >= 0 and int(y.max()) < model.num_classes):
        wrong = next(int(label) for label in y if not 0 <= label < model.num_classes)
        raise UsageError(f"There is no label {wrong}; this model knows 0 to {model.num_classes - 1}.")
    return y


def _coder(model: GenerativeModel) -> HasLatents:
    if not isinstance(model, HasLatents):
        raise UsageError(f"{type(model).__name__} has no latent codes, so it cannot encode, interpolate or traverse.")
    return model


def _decode(model: GenerativeModel, coder: HasLatents, z: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad(), _Eval(model):
        return torch.cat(
            [to_uint8(coder.decode(zs, ys)).cpu() for zs, ys in zip(z.split(BATCH), y.split(BATCH), strict=True)]
        )
