"""Validation of features, and pixels as features."""

import torch
from torch import Tensor

from mnistgen.errors import DataError, UsageError


def check_features(features: Tensor, *, name: str, metric: str, least: int) -> Tensor:
    """The features (n, d), detached. Raises `UsageError` where they are not (n, d) or fewer than `least`, `DataError`
    where one is not finite.
    """
    if features.ndim != 2 or features.shape[1] == 0 or features.is_complex():
        raise UsageError(f"{metric}: features of the {name} are {tuple(features.shape)}; it takes real numbers (n, d).")
    if len(features) < max(least, 1):
        count = "no images" if len(features) == 0 else f"too few images, {len(features)}"
        raise UsageError(f"{metric}: {count} among the {name}; it needs at least {max(least, 1)}.")
    features = features.detach()
    if features.is_floating_point():
        wrong = int((~features.isfinite()).any(1).sum())
        if wrong:
            raise DataError(f"{metric}: features of {wrong} of {len(features)} {name} are not finite.")
    return features


def check_pair(
    samples: Tensor, reference: Tensor, *, metric: str, least: int, names: tuple[str, str] = ("samples", "real images")
) -> tuple[Tensor, Tensor]:
    """Both sets, checked and on the device of the first. Raises also where they differ in d."""
    samples = check_features(samples, name=names[0], metric=metric, least=least)
    reference = check_features(reference, name=names[1], metric=metric, least=least)
    if samples.shape[1] != reference.shape[1]:
        raise UsageError(
            f"{metric}: the {names[0]} have {samples.shape[1]} features each and the {names[1]} {reference.shape[1]}; "
            "take the same layer of the same network."
        )
    return samples, reference.to(samples.device)


def check_labels(labels: Tensor, n: int, *, name: str, metric: str) -> Tensor:
    """The labels (n,) int64, on the CPU. Raises `UsageError` where they are not one whole number >= 0 an image."""
    if labels.shape != (n,) or labels.dtype != torch.int64 or (n and int(labels.min()) < 0):
        raise UsageError(
            f"{metric}: labels of the {name} are {tuple(labels.shape)} {str(labels.dtype).removeprefix('torch.')}; "
            f"{n} images need ({n},) int64, none below 0."
        )
    return labels.cpu()


def pixels(images: Tensor) -> Tensor:
    """Images as features: (n, 1, 28, 28) uint8 -> (n, 784) float32 in [0, 1]. Raises `UsageError` on another type."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise UsageError(f"Images are {tuple(images.shape)} {images.dtype}; pixels are taken of (n, 1, 28, 28) uint8.")
    return images.flatten(1).float() / 255
