"""SparseGPT (Frantar & Alistarh 2023, Algorithm 1): prune a block of columns, update the rest.

Shapes: R rows (outputs), C columns (inputs), b columns of a block. Blocks are held transposed,
[b, R], so that a column is contiguous.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from espalier.contract.pattern import Pattern
from espalier.errors import InputError
from espalier.models.finite import overflow
from espalier.models.zeros import count_zeros
from espalier.pruning.layers.taps import require_fed
from espalier.pruning.masked.masks import zero_where
from espalier.pruning.masked.selection import (
    SmallestMagnitudes,
    smallest_in_groups,
    zeroed_in_row,
)
from espalier.pruning.masked.statistics import Statistic
from methods.sparsegpt.hessian import Hessian, inverse_factor, mirror_upper

MAX_DAMPING = 1.0
STRIP = 32
"""Columns of a block updated one by one; those behind follow in one product."""


class SparseGPT:
    """Prunes and lets the kept weights make up for the error, by the inputs' second moments.

    What is zero already goes first and stays zero: an update would otherwise give a pruned parent
    weights back where it has none.
    """

    uses_activations = True

    def __init__(self, pattern: Pattern, damping: float = 0.01, block_size: int = 128) -> None:
        self._pattern = pattern
        self._damping = damping
        self._block_size = block_size

    def statistic(self, features: int, device: str) -> Statistic:
        """The Hessian that matrices with the same input share."""
        return Hessian(features, device)

    def prune(
        self, weights: Mapping[str, Tensor], statistic: Statistic, sparsity: float
    ) -> dict[str, Any]:
        """Prune and update in place the matrices [R, C] that share one Hessian."""
        assert isinstance(statistic, Hessian)  # noqa: S101
        require_fed(statistic.samples, f"the inputs of {next(iter(weights))}")
        hessian = statistic.matrix
        if not bool(torch.isfinite(hessian.diagonal()).all()):
            raise InputError(overflow("squares of activations", hessian.dtype))
        mirror_upper(hessian)
        dead = hessian.diagonal() == 0  # inputs that were never anything but zero
        hessian.diagonal()[dead] = 1
        try:
            factor, damping = inverse_factor(hessian, self._damping, MAX_DAMPING)
        except ArithmeticError as error:
            raise InputError(
                f"SparseGPT failed: {error} of {next(iter(weights))} even with damping "
                f"{MAX_DAMPING:g}; give more or other calibration tokens."
            ) from None
        for weight in weights.values():
            updated = weight.T.to(
                torch.float32, memory_format=torch.contiguous_format, copy=True
            )  # [C, R]
            zeros = updated == 0 if count_zeros(weight) else None
            updated[dead] = 0
            prune_columns(updated, factor, sparsity, self._pattern, self._block_size, zeros=zeros)
            weight.copy_(updated.T)
        facts: dict[str, Any] = {"damping": damping}
        if int(dead.sum()):
            facts["dead_inputs"] = int(dead.sum())
        return facts

    def attainable(self, rows: int, columns: int, sparsity: float) -> int:
        """Weights zeroed; each block's threshold weight goes too and is not counted."""
        if self._pattern.structured:
            return rows * zeroed_in_row(columns, self._pattern)
        return int(rows * columns * sparsity)


def prune_columns(
    weight: Tensor,
    factor: Tensor,
    sparsity: float,
    pattern: Pattern,
    block_size: int = 128,
    *,
    zeros: Tensor | None = None,
) -> None:
    """Prune in place `weight` float32 [C, R], transposed and contiguous.

    Args:
        weight: the transposed matrix.
        factor: U, upper triangular float32 [C, C], inverse of the Hessian = U^T U.
        sparsity: fraction of each block removed, where the pattern is unstructured.
        pattern: N:M is chosen within groups of the columns as updated so far.
        block_size: columns whose updates reach the rest at once; rounded to whole groups.
        zeros: bool [C, R], what goes first and in any case; None: nothing.
    """
    columns = weight.shape[0]
    block_size = _whole_groups(block_size, pattern)
    for start in range(0, columns, block_size):
        stop = min(start + block_size, columns)
        gone = None if zeros is None else zeros[start:stop]
        errors = _prune_block(
            weight[start:stop], factor[start:stop, start:stop], sparsity, pattern, gone
        )  # [b, R]
        if stop < columns:
            weight[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)


def _prune_block(
    block: Tensor, factor: Tensor, sparsity: float, pattern: Pattern, gone: Tensor | None
) -> Tensor:
    """Prune `block` [b, R] in place by `factor` [b, b]; the errors [b, R] to be made up for.

    What is in `gone`, bool [b, R], goes first and in any case.
    """
    width = block.shape[0]
    scales = factor.diagonal()[:, None]  # [b, 1]
    errors = torch.empty_like(block)
    if pattern.structured:
        pruned = torch.empty_like(block, dtype=torch.bool)
    else:
        pruned = _lowest(block, scales, sparsity, gone)
    # A kept weight has no error; a pruned one leaves all of itself, over U_ii.
    shares = pruned / scales
    strip = _whole_groups(STRIP, pattern)
    for first in range(0, width, strip):
        last = min(first + strip, width)
        for i in range(first, last):
            if pattern.structured and i % pattern.group == 0:
                group = slice(i, min(i + pattern.group, width))
                score = (block[group] / scales[group]).square()
                if gone is not None:
                    score.masked_fill_(gone[group], -1)
                pruned[group] = smallest_in_groups(score.T, pattern).T
                if gone is not None:
                    pruned[group] |= gone[group]
                torch.div(pruned[group], scales[group], out=shares[group])
            torch.mul(block[i], shares[i], out=errors[i])
            if i + 1 < last:
                block[i + 1 : last].addcmul_(factor[i, i + 1 : last, None], errors[i], value=-1)
        if last < width:
            block[last:].addmm_(factor[first:last, last:].T, errors[first:last], alpha=-1)
    zero_where(block, pruned)
    return errors


def _lowest(block: Tensor, scales: Tensor, sparsity: float, gone: Tensor | None) -> Tensor:
    """The int(numel * sparsity) smallest W^2 / U_ii^2, those in `gone` first: bool [b, R].

    Of equals the first in the order of the columns go; see `SmallestMagnitudes`.
    """
    score = (block / scales).square()
    if gone is not None:
        score.masked_fill_(gone, 0)
    lowest = SmallestMagnitudes(score, int(score.numel() * sparsity)).among(score)
    return lowest if gone is None else lowest | gone


def _whole_groups(width: int, pattern: Pattern) -> int:
    if not pattern.structured:
        return width
    return max(width - width % pattern.group, pattern.group)
