"""What is gathered of a matrix's inputs while the calibration tokens pass."""

from typing import Protocol

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1 << 19
"""Squares are formed in pieces that stay in the processor's cache."""


class Statistic(Protocol):
    """A running statistic of the inputs that one group of matrices shares."""

    def add(self, inputs: Tensor) -> None:
        """Take in a batch of inputs [B samples, T tokens, C features]."""


class NoStatistic:
    """For methods that look at the weights alone."""

    def add(self, inputs: Tensor) -> None:
        """Nothing is gathered."""


class SquaredNorms:
    """Mean over samples of each feature's squared L2 norm over the tokens (Wanda, §3).

    Samples are taken in one by one, so that the batch size does not change the result.

    Attributes:
        mean: float32 [C].
        samples: how many were taken in.
    """

    def __init__(self, features: int, device: str) -> None:
        self.mean = torch.zeros(features, dtype=torch.float32, device=device)
        self.samples = 0

    def add(self, inputs: Tensor) -> None:
        rows = max(1, BLOCK_ELEMENTS // (inputs.shape[0] * inputs.shape[2]))
        norms = torch.zeros_like(inputs[:, 0], dtype=torch.float32)  # [B, C]
        for tokens in inputs.split(rows, dim=1):
            norms += tokens.float().square().sum(dim=1)
        for squared in norms:
            self.mean *= self.samples / (self.samples + 1)
            self.samples += 1
            self.mean += squared / self.samples
