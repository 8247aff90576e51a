"""Dropout whose masks belong to a run's samples: no micro batch and no interruption changes them.

Shapes: B sequences, L tokens, D inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.gpu_fsdp.model import generator_of


@dataclass
class Drawn:
    """Which samples of the run are computed: said before each forward pass.

    Attributes:
        seed: of the run.
        length: tokens of the longest sequence: masks are drawn for so many, whatever is read.
        samples: the numbers of the micro batch's sequences, counted from the run's first [B].
    """

    seed: int
    length: int
    samples: Sequence[int] = ()


class SampleDropout(nn.Module):  # type: ignore[misc]
    """Zeroes entries with a probability and scales the others up, in training alone."""

    def __init__(self, probability: float, name: str, drawn: Drawn) -> None:
        super().__init__()
        self._probability, self._name, self._drawn = probability, name, drawn

    def forward(self, x: Tensor) -> Tensor:
        """Of x [B, L, D]."""
        if not self.training:
            return x
        kept = torch.stack([self._kept(sample, x) for sample in self._drawn.samples])
        return x * kept / (1 - self._probability)

    def _kept(self, sample: int, x: Tensor) -> Tensor:
        """Where one sample's entries are left, bool [L, D]."""
        drawn, device = self._drawn, x.device
        generator = generator_of(drawn.seed, self._name, sample, device=device.type)
        numbers = torch.rand((drawn.length, x.shape[-1]), generator=generator, device=device)
        return numbers[: x.shape[1]] >= self._probability
