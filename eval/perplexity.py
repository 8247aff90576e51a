"""Perplexity as the pruning papers measure it: windows of one stream that do not overlap.

The stream is cut into windows of `seqlen` tokens, a shorter tail is dropped, every window gives the
mean cross-entropy of its seqlen - 1 next tokens, and perplexity is the exponential of the mean over
windows (IST-DASLab/sparsegpt and locuslab/wanda, opt_eval / eval.py).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

Forward = Callable[[torch.Tensor], torch.Tensor]
"""From ids int64 [batch, tokens] to logits [batch, tokens, vocabulary]."""

LOGITS_IN_FLOAT = 1 << 26
"""Logits are turned into float32 in parts of about this many: 256 MiB."""


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


def cut_windows(stream: torch.Tensor, seqlen: int) -> torch.Tensor:
    """Windows int64 [windows, seqlen] of a stream int64 [tokens]; the tail is dropped."""
    windows = len(stream) // seqlen
    return stream[: windows * seqlen].view(windows, seqlen)


def window_losses(forward: Forward, windows: torch.Tensor, batch: int) -> Iterator[torch.Tensor]:
    """Mean next-token cross-entropy, in nats, float64 [≤ batch], of a batch of windows at a time.

    Args:
        forward: the model.
        windows: int64 [windows, seqlen], seqlen ≥ 2.
        batch: windows at a time.
    """
    for ids in windows.split(batch):
        with torch.inference_mode():
            losses = _losses(forward(ids), ids)
        yield losses


def _losses(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    rows, targets = logits[:, :-1], ids[:, 1:].to(logits.device)
    step = max(1, LOGITS_IN_FLOAT // logits.shape[-1])
    means = []
    for row, target in zip(rows, targets, strict=True):  # [tokens, vocabulary], [tokens]
        parts = zip(row.split(step), target.split(step), strict=True)
        sums = [cross_entropy(part.float(), t, reduction="sum") for part, t in parts]
        means.append(torch.stack(sums).double().sum() / len(target))
    return torch.stack(means).cpu()


def perplexity(losses: torch.Tensor, seqlen: int) -> Perplexity:
    """Perplexity of windows' mean losses float64 [windows], which are finite."""
    value = math.exp(min(float(losses.mean()), math.log(LARGEST)))  # a ruined model has no overflow
    spread = float(losses.std()) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
    return Perplexity(value, min(value * spread, LARGEST), len(losses), seqlen)
