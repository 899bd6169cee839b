"""How probable a model finds real images, and images that are none of what it was trained on."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mnistgen.data import to_float
from mnistgen.errors import UsageError
from mnistgen.model import GenerativeModel, HasLikelihood
from mnistgen.sampling import log_likelihood

LIKELIHOOD_IMAGES = 1000
GREY = "8-bit pixels"  # what bits/dim are of


def likelihood_of(model: GenerativeModel) -> HasLikelihood:
    """The model, as one with a likelihood. Raises `UsageError` where it has none."""
    if not isinstance(model, HasLikelihood):
        raise UsageError(f"{type(model).__name__} has no likelihood, so it cannot say how probable an image is.")
    return model


def unlike(images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Images that are none of a kind with those given, (n, 1, 28, 28) uint8, as many, by name.

    inverted: 255 minus each pixel. shuffled pixels: each image's own pixels in another order, one for each image, so
    that its histogram is the same and its shapes are gone. constant: one grey level over the whole image, drawn
    uniformly. Exact likelihoods are known to prefer the smooth to the real (Nalisnick et al., "Do Deep Generative
    Models Know What They Don't Know?", 2019, https://arxiv.org/abs/1810.09136).
    """
    g, flat = torch.Generator().manual_seed(seed), images.flatten(1)
    order = torch.rand(flat.shape, generator=g).argsort(1)
    levels = torch.randint(256, (len(images), 1), generator=g).to(torch.uint8)
    return {
        "inverted": 255 - images,
        "shuffled pixels": flat.gather(1, order).view_as(images),
        "constant": levels.expand_as(flat).reshape(images.shape),
    }


def measure_likelihood(
    model: GenerativeModel,
    sets: Mapping[str, tuple[Tensor, Tensor]],
    *,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Negative log-likelihoods of sets of images, each (n, 1, 28, 28) uint8 and (n,) labels that the model is told.

    Returns {"kind": "exact", "lower bound" or "estimate"; "of": what data; "rows": for each set, "n", "nats" an image
    and its 95% interval for other images of that kind, and where it is of 8-bit pixels "bits_per_dim", nats / (784 ln
    2), and its interval}. Of a lower bound on log p, these are upper bounds. Raises `UsageError` without a likelihood.
    """
    teller = likelihood_of(model)
    rows: dict[str, dict[str, Any]] = {}
    for i, (name, (images, labels)) in enumerate(sets.items()):

        def within(done: float, name: str = name, i: int = i) -> None:
            if progress is not None:
                progress(f"likelihood of {name}", (i + done) / len(sets))

        nats = -log_likelihood(model, to_float(images), labels, seed=seed, progress=within)
        rows[name] = _row(nats, bits=teller.likelihood_of == GREY)
    return {"kind": teller.likelihood, "of": teller.likelihood_of, "rows": rows}


def _row(nats: Tensor, *, bits: bool) -> dict[str, Any]:
    from mnistgen.metrics.statistics import t_interval  # SciPy, which a score without this does not need

    found, unit = t_interval(nats.tolist()), 28 * 28 * math.log(2)
    interval = [found.mean - found.half, found.mean + found.half]
    row: dict[str, Any] = {"n": found.n, "nats": found.mean, "nats_interval_95": interval}
    if bits:
        row |= {"bits_per_dim": found.mean / unit, "bits_per_dim_interval_95": [end / unit for end in interval]}
    return row
