"""The device, the arithmetic and the random state of a step."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mnistgen.building import float32
from mnistgen.errors import UsageError
from mnistgen.model import Trainable
from mnistgen.nn import computes_in_bfloat16


def resolve_device(name: str | torch.device) -> torch.device:
    """The device called `name`; auto is the first of cuda, mps and cpu that is there. Raises `UsageError`."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # `meta` has room for anything, and no numbers
    except (NotImplementedError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"Device {str(name)!r} cannot be used here: {reason}. Try --device cpu, or auto.") from error
    return device


def autocast_dtype(device: torch.device, precision: str) -> torch.dtype | None:
    """bfloat16, or None for plain float32. auto: bfloat16 where the hardware multiplies in it."""
    if precision not in ("auto", "fp32", "bf16"):
        raise UsageError(f"There is no precision {precision!r}; it is auto, fp32 or bf16.")
    if precision == "auto":
        return torch.bfloat16 if computes_in_bfloat16(device) else None
    return torch.bfloat16 if precision == "bf16" else None


def precision_of(model: Trainable, device: torch.device, precision: str) -> torch.dtype | None:
    """`autocast_dtype`, and plain float32 for a model that needs it. Raises `UsageError` where bf16 is asked of it."""
    dtype = autocast_dtype(device, precision)
    if dtype is None or model.training_precision == "any":
        return dtype
    if precision == "bf16":
        raise UsageError(f"precision is bf16, and {type(model).__name__} needs float32; leave it out.")
    return None


@contextmanager
def seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Draw from (seed, step) inside, and leave the caller's random state as it was.

    The generators are seeded one by one: torch.manual_seed looks after every kind of device, and takes as long as a
    tenth of a small model's step.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    before = [generator.get_state() for generator in generators]
    number = int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest(), "little") >> 1
    try:
        for generator in generators:
            generator.manual_seed(number)
        with float32():
            yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
