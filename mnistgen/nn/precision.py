"""The arithmetic that the hardware computes in."""

import torch


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16; without such instructions a CPU emulates it, slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
