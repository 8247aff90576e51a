"""What is gathered of a matrix's inputs while the calibration tokens pass."""

from typing import Protocol

import torch
from torch import Tensor


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
        norms = torch.linalg.vector_norm(inputs, dim=1, dtype=torch.float32)  # [B, C]
        for squared in norms.square():
            self.mean *= self.samples / (self.samples + 1)
            self.samples += 1
            self.mean += squared / self.samples
