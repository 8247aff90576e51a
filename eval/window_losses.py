"""Losses of windows by a model of torch, a batch at a time."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch.nn.functional import cross_entropy

Forward = Callable[[torch.Tensor], torch.Tensor]
"""From ids int64 [batch, tokens] to logits [batch, tokens, vocabulary]."""

LOGITS_IN_FLOAT = 1 << 26
"""Logits are turned into float32 in parts of about this many: 256 MiB."""


def window_losses(forward: Forward, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Mean next-token cross-entropy, in nats, float64 [windows], of a batch of windows at a time.

    Args:
        forward: the model.
        batches: int64 [windows, seqlen] each, seqlen ≥ 2.
    """
    for ids in batches:
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
