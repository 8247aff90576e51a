"""Magnitude pruning (Han et al. 2015, "Learning both Weights and Connections", §3).

Score of a weight: its absolute value, in its own dtype.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from espalier.contract.pattern import Pattern
from espalier.models.zeros import row_blocks
from espalier.pruning.masked.masks import zero_where
from espalier.pruning.masked.selection import (
    SmallestMagnitudes,
    smallest_in_groups,
    zeroed_in_row,
)
from espalier.pruning.masked.statistics import NoStatistic, Statistic


class Magnitude:
    """Prunes a matrix by its values alone."""

    uses_activations = False

    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern

    def statistic(self, features: int, device: str) -> Statistic:
        """None is needed."""
        return NoStatistic()

    def prune(
        self, weights: Mapping[str, Tensor], statistic: Statistic, sparsity: float
    ) -> dict[str, Any]:
        """Zero in place the smallest magnitudes of each matrix [rows, columns]."""
        for weight in weights.values():
            if self._pattern.structured:
                zero_smallest_in_groups(weight, self._pattern)
            else:
                zero_smallest(weight, sparsity)
        return {}

    def attainable(self, rows: int, columns: int, sparsity: float) -> int:
        """Weights zeroed; the threshold's, which goes too where it has no equal, is not counted."""
        if self._pattern.structured:
            return rows * zeroed_in_row(columns, self._pattern)
        return int(rows * columns * sparsity)


def zero_smallest(weight: Tensor, sparsity: float) -> None:
    """Zero the int(numel * sparsity) smallest |W|, see `SmallestMagnitudes`."""
    smallest = SmallestMagnitudes(weight, int(weight.numel() * sparsity))
    for rows in row_blocks(weight):
        zero_where(rows, smallest.among(rows))


def zero_smallest_in_groups(weight: Tensor, pattern: Pattern) -> None:
    """Zero N of every M consecutive inputs."""
    for rows in row_blocks(weight):
        zero_where(rows, smallest_in_groups(rows.abs(), pattern))
