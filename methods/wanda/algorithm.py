"""Wanda (Sun et al. 2023, "A Simple and Effective Pruning Approach for LLMs", eq. 1).

Score of weight W_ij: |W_ij| * sqrt(s_j), with s_j the mean over samples of ||X_j||^2. Weights are
compared within an output row (§3), or within groups of M inputs (§4.2, N:M).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from espalier.contract.pattern import Pattern
from espalier.errors import InputError
from espalier.models.finite import overflow
from espalier.models.zeros import row_blocks
from espalier.pruning.layers.taps import require_fed
from espalier.pruning.masked.masks import zero_where
from espalier.pruning.masked.selection import smallest_in_groups, smallest_in_rows, zeroed_in_row
from espalier.pruning.masked.statistics import SquaredNorms, Statistic

START, LOW, HIGH = 0.4, 0.0, 0.8
"""Where the search for alpha begins, and its bracket."""
TOLERANCE = 0.001


class Wanda:
    """Prunes by weight times input norm; the kept weights stay as they are."""

    uses_activations = True

    def __init__(self, pattern: Pattern, variant: bool = False) -> None:
        self._pattern = pattern
        self._variant = variant

    def statistic(self, features: int, device: str) -> Statistic:
        """Squared norms of each input feature."""
        return SquaredNorms(features, device)

    def prune(
        self, weights: Mapping[str, Tensor], statistic: Statistic, sparsity: float
    ) -> dict[str, Any]:
        """Zero in place the lowest scores of each matrix [rows, columns]."""
        assert isinstance(statistic, SquaredNorms)  # noqa: S101
        require_fed(statistic.samples, f"the inputs of {next(iter(weights))}")
        norms = statistic.mean.sqrt()  # [columns]
        if not bool(torch.isfinite(norms).all()):
            raise InputError(overflow("squares of activations", norms.dtype))
        facts: dict[str, Any] = {}
        for name, weight in weights.items():
            if self._variant:
                facts[name] = {"alpha": zero_by_row_share(weight, norms, sparsity)}
            else:
                zero_lowest(weight, norms, sparsity, self._pattern)
        return facts

    def attainable(self, rows: int, columns: int, sparsity: float) -> int:
        """Weights zeroed: whole numbers in each row."""
        if self._pattern.structured:
            return rows * zeroed_in_row(columns, self._pattern)
        if self._variant:  # the search takes nothing for as good as TOLERANCE
            return int(rows * columns * sparsity) if sparsity > TOLERANCE else 0
        return rows * int(columns * sparsity)


def scores(weight: Tensor, norms: Tensor) -> Tensor:
    """|W| * ||X||: float32 [R, C] from `weight` [R, C] of any float dtype, `norms` float32 [C]."""
    return weight.abs() * norms


def zero_lowest(weight: Tensor, norms: Tensor, sparsity: float, pattern: Pattern) -> None:
    """Zero the int(C * sparsity) lowest scores of each row, or N of every M, of `weight` [R, C]."""
    for rows in row_blocks(weight):
        score = scores(rows, norms)
        if pattern.structured:
            lowest = smallest_in_groups(score, pattern)
        else:
            lowest = smallest_in_rows(score, int(weight.shape[1] * sparsity))
        zero_where(rows, lowest)


def zero_by_row_share(weight: Tensor, norms: Tensor, sparsity: float) -> float:
    """The variant (the paper's appendix): each row gives up the share alpha of its score.

    A row loses its lowest scores as long as their sum stays within alpha times the row's sum; alpha
    is one for the matrix [R, C] and is bisected until the matrix has the sparsity wanted.

    Returns:
        alpha.
    """
    score = scores(weight, norms)
    ordered = score.sort(dim=1).values
    summed = ordered.cumsum(dim=1)
    totals = score.sum(dim=1, keepdim=True)  # [R, 1]

    def thresholds(alpha: float) -> Tensor:
        within = (summed <= totals * alpha).sum(dim=1, keepdim=True)  # [R, 1]
        at = ordered.gather(1, (within - 1).clamp(min=0))
        return torch.where(within > 0, at, -1.0)  # a row that can give nothing keeps all

    def removed(alpha: float) -> float:
        counts = torch.searchsorted(ordered, thresholds(alpha), right=True)
        return float(counts.sum()) / float(weight.numel())

    alpha, low, high = START, LOW, HIGH
    found = removed(alpha)
    while abs(found - sparsity) > TOLERANCE and high - low >= TOLERANCE:
        if found > sparsity:
            alpha, high = (alpha + low) / 2, alpha
        else:
            alpha, low = (alpha + high) / 2, alpha
        found = removed(alpha)
    zero_where(weight, score <= thresholds(alpha))
    return alpha
