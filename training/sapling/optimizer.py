"""Muon: momentum whose matrices are made orthogonal before the step.

Keller Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/. torch's own multiplies in
bfloat16, one matrix at a time: on a CPU without it that costs more than the model itself.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic that drives every singular value towards one."""
ITERATIONS = 5
MOMENTUM = 0.95
UPDATE_RMS = 0.2
"""An orthogonal matrix is scaled to the size of AdamW's updates, so that both share a rate."""


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest (half-)orthogonal matrices, roughly, float32 [count, rows, columns]."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    X = matrices.mT if tall else matrices
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if tall else X


class Muon:
    """The optimizer of a model's hidden matrices; equal shapes are treated together."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], weight_decay: float) -> None:
        self._groups: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            self._groups[parameter.shape].append(parameter)
        self._momenta: dict[torch.Size, torch.Tensor] = {}
        self._weight_decay = weight_decay

    def step(self, rate: float) -> None:
        """Use the gradients of all parameters once, with Nesterov's momentum."""
        with torch.no_grad():
            for shape, group in self._groups.items():
                gradients = torch.stack([p.grad for p in group if p.grad is not None])
                momentum = self._momenta.setdefault(shape, torch.zeros_like(gradients))
                momentum.lerp_(gradients, 1 - MOMENTUM)
                updates = orthogonal(gradients.lerp(momentum, MOMENTUM))
                scale = rate * UPDATE_RMS * max(shape) ** 0.5
                for parameter, update in zip(group, updates, strict=True):
                    parameter.mul_(1 - rate * self._weight_decay).sub_(update, alpha=scale)
