"""Mean losses of domains, which come out the same however rows are split over batches and ranks.

Sums of floating-point numbers depend on their order. Each token's loss is counted in units of
2**-24 nats instead, an error below 3e-8, and whole numbers add up exactly: `totals` of batches and
of ranks are added, by `+` or by an all-reduce, and `means` taken at the end.

Shapes: B rows, T tokens a row, V vocabulary, K domains.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

UNITS = 1 << 24
"""Of a nat."""
LARGEST = float(1 << 20)
"""A loss, in nats, that only a broken model has; sums of what is below fit int64."""
IGNORED = -100
"""A target that counts in no sum, as torch's cross-entropy has it."""


def next_token_losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of each next token, nats, float32 [B, T - 1].

    Args:
        logits: of each place, [B, T, V].
        ids: the tokens, int64 [B, T].
    """
    return cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")


def totals(losses: Tensor, domains: Tensor, count: int, targets: Tensor | None = None) -> Tensor:
    """Of each domain the sum of losses in UNITS, tokens in it, and tokens with no such loss.

    Args:
        losses: of tokens, nats, [B, T], any float.
        domains: of rows, int64 [B].
        count: K.
        targets: [B, T]; where they are IGNORED, a token does not count; None: all count.

    Returns:
        int64 [3, K] on the losses' device. What is NaN, infinite or at least LARGEST is counted in
        its third row alone.
    """
    found = losses.detach().double()
    counted = torch.ones_like(found, dtype=torch.bool) if targets is None else targets != IGNORED
    usable = found.abs() < LARGEST  # NaN is not
    good = counted & usable
    units = torch.where(good, found * UNITS, 0.0).round().long()
    rows = torch.stack([units.sum(-1), good.sum(-1), (counted & ~usable).sum(-1)])  # [3, B]
    zeros = torch.zeros((3, count), dtype=torch.int64, device=losses.device)
    return zeros.index_add_(1, domains, rows)


def means(sums: Tensor, domains: Sequence[str]) -> dict[str, float | None]:
    """The mean loss of each domain, nats a token.

    Args:
        sums: added up `totals`, [3, K].
        domains: their names.

    Returns:
        None for a domain of which there was no token; NaN for one with a loss that is no number.
    """
    columns = sums.T.tolist()
    return {name: _mean(*column) for name, column in zip(domains, columns, strict=True)}


def overall_mean(sums: Tensor) -> float | None:
    """The mean loss over all tokens, as `means` has it."""
    return _mean(*sums.sum(1).tolist())


def _mean(units: int, tokens: int, broken: int) -> float | None:
    if broken:
        return math.nan
    return units / tokens / UNITS if tokens else None
