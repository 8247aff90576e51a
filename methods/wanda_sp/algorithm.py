"""Wanda-sp: Wanda's score of a weight (Sun et al. 2023, eq. 1), averaged over a column.

The structured baseline of FLAP (An et al. 2023, arXiv 2312.11983, sec. 5.1). A column of o_proj or
down_proj scores mean_i |W_ij| sqrt(s_j), with s_j the mean over samples of ||X_j||^2; a head sums
up its columns, and a key-value head is the mean of the query heads that read it.

Shapes: Q = heads x head_dim, F neurons, K key-value heads. Everything is float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from espalier.errors import InputError
from espalier.models.finite import overflow
from espalier.models.shapes import Shapes
from espalier.pruning.structured.units import LayerUnits, all_but_lowest, by_group, column_sizes


@dataclass(frozen=True)
class LayerScores:
    """Scores of a layer's units.

    Attributes:
        heads: [K].
        neurons: [F].
    """

    heads: Tensor
    neurons: Tensor

    @classmethod
    def of(cls, attention: Tensor, mlp: Tensor, shapes: Shapes) -> "LayerScores":
        """From the scores of o_proj's columns [Q] and of down_proj's [F].

        Raises:
            InputError: one is no number.
        """
        heads = by_group(attention, shapes).sum(dim=-1).mean(dim=-1)
        if not bool(torch.isfinite(heads).all() and torch.isfinite(mlp).all()):
            raise InputError(overflow("squares of activations", torch.float32))
        return cls(heads, mlp)

    def without(self, heads: int, neurons: int) -> LayerUnits:
        """All but so many of the lowest; of equals the first go."""
        return LayerUnits(all_but_lowest(self.heads, heads), all_but_lowest(self.neurons, neurons))


def column_scores(weight: Tensor, norms: Tensor) -> Tensor:
    """mean_i |W_ij| sqrt(s_j) of `weight` [R, C] by `norms` s [C]: [C]."""
    return column_sizes(weight) * norms.double().sqrt()
