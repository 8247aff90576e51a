"""Perplexity as the pruning papers measure it: windows of one stream that do not overlap.

The stream is cut into windows of `seqlen` tokens, a shorter tail is dropped, every window gives the
mean cross-entropy of its seqlen - 1 next tokens, and perplexity is the exponential of the mean over
windows (IST-DASLab/sparsegpt and locuslab/wanda, opt_eval / eval.py).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e300
"""The most that is told of a model that is ruined, though its loss is finite."""


@dataclass(frozen=True)
class Perplexity:
    """`value` over `windows` windows of `seqlen` tokens; `stderr` of the mean loss, through exp."""

    value: float
    stderr: float
    windows: int
    seqlen: int

    @property
    def tokens(self) -> int:
        """The number of predicted tokens."""
        return self.windows * (self.seqlen - 1)

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.windows} windows of {self.seqlen} tokens)"


def perplexity(losses: NDArray[np.float64], seqlen: int) -> Perplexity:
    """Perplexity of windows' mean losses float64 [windows], which are finite."""
    value = math.exp(min(float(losses.mean()), math.log(LARGEST)))  # a ruined model has no overflow
    spread = float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
    return Perplexity(value, min(value * spread, LARGEST), len(losses), seqlen)
