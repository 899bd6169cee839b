"""New images made of given ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mnistgen.errors import UsageError
from mnistgen.model import GenerativeModel, HasEditing, Noise
from mnistgen.sampling.sampler import calling, device_of, labels_of, pixels, require_images

REGIONS = ("left", "right", "top", "bottom", "centre")


def region(name: str) -> Tensor:
    """The mask of a part of the image, (1, 28, 28), true inside: one of `REGIONS`."""
    if name not in REGIONS:
        raise UsageError(f"There is no region {name!r}; there are {', '.join(REGIONS)}.")
    mask = torch.zeros(1, 28, 28, dtype=torch.bool)
    whole, low, high, middle = slice(None), slice(14), slice(14, None), slice(7, 21)
    rows = {"top": low, "bottom": high, "centre": middle}.get(name, whole)
    columns = {"left": low, "right": high, "centre": middle}.get(name, whole)
    mask[:, rows, columns] = True
    return mask


def inpaint(
    model: GenerativeModel,
    images: Tensor,
    labels: Tensor | Sequence[int],
    mask: Tensor,
    *,
    seed: int = 0,
    first: int = 0,
) -> Tensor:
    """`images` with what is in `mask` inpainted, by the label: (n, 1, 28, 28) uint8; the rest is as it was.

    `images`: (n, 1, 28, 28) float in [-1, 1]; `mask`: bool that broadcasts to them, such as `region("left")`. Image i
    depends on `(seed, first + i)`. Raises `UsageError` for a model that does not edit.
    """
    editor, y, device = editor_of(model), labels_of(model, labels), device_of(model)
    require_images(images, y)
    x = images.to(device)
    known = ~mask.to(device).expand(x.shape)
    with calling(model, "inpaint"):
        edited = editor.inpaint(x, known, y.to(device), noise=Noise(seed, range(first, first + len(y)), device))
    return pixels(edited, len(y), model, "inpaint")


def vary(
    model: GenerativeModel,
    images: Tensor,
    labels: Tensor | Sequence[int],
    *,
    strength: float = 0.5,
    seed: int = 0,
    first: int = 0,
) -> Tensor:
    """Variations of `images`, (n, 1, 28, 28) float in [-1, 1] -> the same as uint8.

    `strength`: from 0, the images themselves, to 1, new ones that have the label alone in common with them. Image i
    depends on `(seed, first + i)`. Raises `UsageError` for a model that does not edit, or a strength that there is not.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"strength is {strength}; it must be from 0 to 1.")
    editor, y, device = editor_of(model), labels_of(model, labels), device_of(model)
    require_images(images, y)
    noise = Noise(seed, range(first, first + len(y)), device)
    with calling(model, "vary"):
        edited = editor.vary(images.to(device), y.to(device), noise=noise, strength=strength)
    return pixels(edited, len(y), model, "vary")


def editor_of(model: GenerativeModel) -> HasEditing:
    """The model, as one that edits given images. Raises `UsageError` where it does not."""
    if not isinstance(model, HasEditing):
        raise UsageError(
            f"{type(model).__name__} cannot edit a given image; `mnistgen models` has the diffusion models, which can."
        )
    return model
