"""Log-likelihoods of images under a model, in the precision that they take."""

import copy
import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mnistgen.errors import ContractError, UsageError
from mnistgen.model import GenerativeModel, HasLikelihood, Noise
from mnistgen.sampling.sampler import BATCH, calling, device_of, labels_of, require_images


def log_likelihood(
    model: GenerativeModel,
    images: Tensor,
    labels: Tensor | Sequence[int],
    *,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """`model.log_prob` of each image, (n, 1, 28, 28) float in [-1, 1] and (n,) -> (n,) float64 nats on the CPU.

    In float32, or in float64 where the model says so (`likelihood_precision`), whatever autocast is on outside; what
    is random depends on `(seed, i)` for image i where `log_prob` takes a `noise`. `progress` is told the share that is
    done. Raises `UsageError` for a model without a likelihood.
    """
    if not isinstance(model, HasLikelihood):
        raise UsageError(f"{type(model).__name__} has no likelihood, so it cannot say how probable an image is.")
    y, device = labels_of(model, labels), device_of(model)
    require_images(images, y)
    dtype = torch.float64 if model.likelihood_precision == "float64" else torch.float32
    exact = copy.deepcopy(model).to(dtype) if dtype is torch.float64 else model
    takes_noise = "noise" in inspect.signature(model.log_prob).parameters
    parts = [torch.empty(0, dtype=torch.float64)]
    with calling(exact, "log_prob"), torch.random.fork_rng():
        torch.manual_seed(seed)
        for rows in torch.arange(len(y)).split(batch_size):
            noise = {"noise": Noise(seed, rows.tolist(), device)} if takes_noise else {}
            value = exact.log_prob(images[rows].to(device, dtype), y[rows].to(device), **noise)
            if value.shape != (len(rows),):
                raise ContractError(f"log_prob() returns {tuple(value.shape)} for {len(rows)} images.")
            parts.append(value.double().cpu())
            if progress is not None:
                progress((int(rows[-1]) + 1) / len(y))
    return torch.cat(parts)
