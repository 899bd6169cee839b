"""Binarised data: black and white and nothing between, as the literature on likelihoods has MNIST."""

from dataclasses import replace

import torch
from torch import Tensor

from mnistgen.data.convert import Binarisation
from mnistgen.data.dataset import Dataset

SEED = 0  # of the static draw, for everyone the same
CHUNK = 4096  # images drawn at once


def binarised(data: Dataset, how: Binarisation) -> Dataset:
    """The same images in 0 and 255, named and hashed as what they are.

    static: each pixel is white with the probability of its grey, drawn once by a fixed seed (after Salakhutdinov and
    Murray 2008; a draw of our own, not the published file of Larochelle and Murray 2011). threshold: white above 127.
    """
    if how == "threshold":
        images, done = threshold(data.images), "white where a pixel is above 127"
    else:
        images, done = (
            drawn(data.images, SEED),
            f"each pixel drawn once by its grey, seed {SEED}, not the published file",
        )
    notes = (*data.notes, f"{data.name}: binarised; {done}.")
    return replace(data, images=images, name=f"{data.name}-{how}", notes=notes)


def threshold(images: Tensor) -> Tensor:
    """White where a pixel is above 127, else black: uint8 -> {0, 255}."""
    return (images > 127).to(torch.uint8) * 255


def drawn(images: Tensor, seed: int) -> Tensor:
    """White with the probability of the grey, v / 255: uint8 -> {0, 255}, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part in images.split(CHUNK):
        white = torch.randint(255, part.shape, generator=generator, dtype=torch.int16).to(part.device) < part
        parts.append(white.to(torch.uint8) * 255)
    return torch.cat(parts) if parts else images
