"""The arithmetic that the hardware computes in."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_exact = ContextVar("exact", default=False)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16; without such instructions a CPU emulates it, slower than float32."""
    if _exact.get():
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


@contextmanager
def in_float32() -> Iterator[None]:
    """Inside, nothing is computed in bfloat16, whatever the hardware: for a graph that is to run on another."""
    before = _exact.set(True)
    try:
        yield
    finally:
        _exact.reset(before)
