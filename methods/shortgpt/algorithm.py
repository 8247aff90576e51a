"""ShortGPT (Men et al. 2024, arXiv 2403.03853, §3): how much a layer changes its input.

Shapes: B samples, T tokens, H hidden.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from espalier.errors import InputError
from espalier.models.finite import overflow
from espalier.pruning.layers.taps import Tap, across, require_fed


def block_influence(inputs: Tensor, outputs: Tensor) -> Tensor:
    """1 - mean over tokens of cos(input, output) of states [B, T, H]: float32 [B] (eq. 1)."""
    return 1 - cosine_similarity(inputs.float(), outputs.float(), dim=-1).mean(dim=-1)


def least_influential(influence: Sequence[float], count: int) -> list[int]:
    """The `count` layers of least influence, the least first; of equals the later layer goes."""
    order = sorted(range(len(influence)), key=lambda layer: (influence[layer], -layer))
    return order[:count]


class BlockInfluence:
    """Averages each layer's influence over the samples."""

    def __init__(self) -> None:
        self._samples: list[float] = []

    def begin(self, module: nn.Module) -> list[Tap]:
        """Look at the layer as a whole."""
        self._samples = []
        return [across("", self.see)]

    def see(self, inputs: Tensor, outputs: Tensor) -> None:
        """Take in hidden states [B, T, H] before and after the layer."""
        self._samples += block_influence(inputs, outputs).tolist()

    def end(self) -> dict[str, Any]:
        """The layer's influence.

        Raises:
            InputError: no tokens have passed, or it is no number.
        """
        require_fed(len(self._samples), "the layer")
        influence = sum(self._samples) / len(self._samples)
        if not math.isfinite(influence):
            raise InputError(overflow("squares of hidden states", torch.float32))
        return {"block_influence": influence}
