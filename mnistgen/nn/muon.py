"""An optimizer for networks that are to learn much in few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mnistgen.nn.precision import computes_in_bfloat16


class Muon(Optimizer):
    """Momentum whose singular values are all made one, for the weights of hidden layers; Adam for all else.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024),
    https://kellerjordan.github.io/posts/muon/. With M the momentum of a weight's gradient, its first dimension by all
    others, and M = U S V' its singular value decomposition, the step is

        W <- W - lr * sqrt(max(1, rows / columns)) * U V'

    by five Newton-Schulz iterations, which bring the singular values near 1. `lr` is that of Adam, for gains, biases,
    embeddings, and what `hidden` does not name; `matrix_lr` that of the hidden weights. `weight_decay` is decoupled, a
    share of the learning rate of each.
    """

    def __init__(
        self,
        hidden: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        matrix_lr: float = 0.02,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        groups = [
            {"params": list(hidden), "lr": matrix_lr, "momentum": momentum, "hidden": True},
            {"params": list(others), "lr": lr, "betas": betas, "hidden": False},
        ]
        super().__init__([group for group in groups if group["params"]], {"weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; parameters without a gradient stay as they are."""
        assert closure is None
        for group in self.param_groups:
            update = self._orthogonal if group["hidden"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, self.state[parameter], group)

    def _orthogonal(self, weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum"], group["momentum"])  # Nesterov's
        matrix = ahead.flatten(1)
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        weight.add_(orthogonal(matrix).view(weight.shape), alpha=-group["lr"] * scale)

    def _adam(self, weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
        state["step"] += 1
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].lerp_(gradient.square(), 1 - beta2)
        deviation = (state["square"] / (1 - beta2**step)).sqrt() + 1e-8
        weight.addcdiv_(state["mean"], deviation, value=-group["lr"] / (1 - beta1**step))


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Near U V' of matrix = U S V', (m, n): singular values from 0.7 to 1.2, in bfloat16 where the device has it."""
    a, b, c = 3.4445, -4.7750, 2.0315  # steepest at 0, where small singular values are
    x = matrix.bfloat16() if computes_in_bfloat16(matrix.device) else matrix.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = (x.T if tall else x).to(matrix.dtype)
    return out
