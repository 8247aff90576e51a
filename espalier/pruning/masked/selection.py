"""Which scores are smallest: in a row, in a group of N:M, in a whole matrix.

Every function gives the result of a stable ascending sort (of equals, the first goes first) without
sorting where a sort is not needed.
"""

import numpy as np
import torch
from torch import Tensor

from espalier.contract.pattern import Pattern

RANKED_GROUP = 16
"""Up to this width the members of a group are ranked by comparing them pair by pair."""


def smallest_in_rows(scores: Tensor, count: int) -> Tensor:
    """The `count` smallest of each row: bool [R, C] of `scores` [R, C]."""
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = _kth_smallest(scores, count)
    chosen = scores <= threshold
    tied = (chosen.sum(dim=1) > count).nonzero()[:, 0]  # rows where equals straddle the threshold
    if len(tied):
        order = torch.argsort(scores[tied], dim=1, stable=True)[:, :count]
        exact = torch.zeros_like(scores[tied], dtype=torch.bool)
        chosen[tied] = exact.scatter_(1, order, value=True)
    return chosen


def smallest_in_groups(scores: Tensor, pattern: Pattern) -> Tensor:
    """N smallest of every M consecutive columns, and of a last partial group: bool [R, C]."""
    rows, columns = scores.shape
    width = pattern.group
    whole = columns - columns % width
    chosen = torch.empty_like(scores, dtype=torch.bool)
    groups = scores[:, :whole].reshape(rows, -1, width)  # [R, groups, M]
    chosen[:, :whole] = _smallest_of_last(groups, pattern.zeroed).reshape(rows, whole)
    if whole < columns:
        chosen[:, whole:] = _smallest_of_last(scores[:, whole:], pattern.zeroed)
    return chosen


def zeroed_in_row(columns: int, pattern: Pattern) -> int:
    """How many of `columns` inputs an N:M pattern zeroes."""
    groups, tail = divmod(columns, pattern.group)
    return groups * pattern.zeroed + min(tail, pattern.zeroed)


class SmallestMagnitudes:
    """The `count` smallest |weight| of a whole matrix, asked for in blocks of its rows in order.

    The weight at index `count` of the sorted ones goes too, as in the reference implementations,
    where it has no equal beyond: of equals there, the first ones make up `count` exactly.
    """

    def __init__(self, weight: Tensor, count: int) -> None:
        """`weight` [R, C] is finite."""
        index = min(count, weight.numel() - 1)
        self._threshold, below, at_most = kth_smallest_magnitude(weight, index)
        self._left = None if at_most <= count + 1 else count - below

    def among(self, rows: Tensor) -> Tensor:
        """Which of the next rows [r, C] are among them: bool [r, C]."""
        magnitudes = rows.abs()
        if self._left is None:
            return magnitudes <= self._threshold
        equal = (magnitudes == self._threshold).reshape(-1).nonzero()[:, 0]
        chosen = magnitudes < self._threshold
        first = equal[: self._left]
        self._left -= len(first)
        chosen.view(-1)[first] = True
        return chosen


def kth_smallest_magnitude(weight: Tensor, index: int) -> tuple[Tensor, int, int]:
    """The value at `index` of the sorted |weight|, and how many are below it and at most it.

    The value is a scalar in the weight's dtype. The bit patterns of non-negative floats order as
    the floats do, so counting them by their upper and then their lower half finds the value in two
    passes.
    """
    magnitudes = weight.abs().reshape(-1)
    if weight.dtype in (torch.bfloat16, torch.float16):
        bits, below, at_most = _bin_of(magnitudes.view(torch.int16), index)
        value = torch.tensor(bits, dtype=torch.int16, device=weight.device).view(weight.dtype)
        return value, below, at_most
    patterns = magnitudes.float().view(torch.int32)
    upper, before, _ = _bin_of(patterns >> 16, index)
    rest = patterns[(patterns >> 16) == upper] & 0xFFFF
    lower, below, at_most = _bin_of(rest, index - before)
    bits = torch.tensor((upper << 16) | lower, dtype=torch.int32, device=weight.device)
    value = bits.view(torch.float32).to(weight.dtype)
    return value, before + below, before + at_most


def _kth_smallest(scores: Tensor, count: int) -> Tensor:
    """The `count`-th smallest of each row of float32 [R, C]: [R, 1]."""
    if scores.device.type != "cpu":
        return torch.kthvalue(scores, count, dim=1, keepdim=True).values
    # numpy's selection uses the processor's vector units, several times faster than torch's.
    divided = np.partition(scores.numpy(), count - 1, axis=1)
    return torch.from_numpy(divided[:, count - 1 : count])


def _bin_of(values: Tensor, index: int) -> tuple[int, int, int]:
    """The value at `index` of sorted non-negative integers; how many are below and at most it."""
    upto = torch.bincount(values).cumsum(0)
    value = int(torch.searchsorted(upto, index, right=True))
    return value, int(upto[value - 1]) if value else 0, int(upto[value])


def _smallest_of_last(scores: Tensor, count: int) -> Tensor:
    """The `count` smallest along the last dimension: bool, of the same shape."""
    width = scores.shape[-1]
    if width > RANKED_GROUP:
        order = torch.argsort(scores, dim=-1, stable=True)[..., :count]
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, value=True)
    members = [scores[..., i].contiguous() for i in range(width)]
    ranks = [torch.zeros_like(members[0], dtype=torch.uint8) for _ in members]
    for i in range(width):
        for j in range(i + 1, width):
            later_is_smaller = members[j] < members[i]
            ranks[i] += later_is_smaller
            ranks[j] += ~later_is_smaller
    return torch.stack([rank < count for rank in ranks], dim=-1)
