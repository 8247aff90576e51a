"""Shortened-LLaMA (Kim et al. 2024, arXiv 2402.02834, §3): what a block is worth.

Perplexity without the block is measured by `espalier.pruning.depth`; here are the scores that are
sums over the block's weights, of a Llama its seven matrices and two norms.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from espalier.errors import InputError
from espalier.models.finite import overflow
from espalier.pruning.layers.walk import LayerStep

Norm = Literal["l1", "l2"]


def total(values: Tensor, norm: Norm) -> Tensor:
    """The sum over all entries of |v|^p, p = 1 or 2: a float64 scalar.

    Args:
        values: of any shape, taken as float32.
        norm: which power.
    """
    magnitudes = values.float().abs()
    return (magnitudes if norm == "l1" else magnitudes.square()).sum(dtype=torch.float64)


class Magnitudes:
    """sum |w|^p of each weight of a layer; needs no tokens."""

    def __init__(self, norm: Norm) -> None:
        self._norm = norm

    def visit(self, step: LayerStep) -> dict[str, Any]:
        """The scores of the layer's weights, by name."""
        found = {n: float(total(w, self._norm)) for n, w in step.module.named_parameters()}
        return {"weights": found}


class Taylor:
    """sum |w x dL/dw|^p of each weight, L the mean loss of the samples (eq. 2).

    The products are summed over samples before their magnitude is taken, float32.
    """

    def __init__(self, norm: Norm, samples: int) -> None:
        self._norm, self._samples = norm, samples
        self._weights: Mapping[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """A layer's weights come next."""
        self._weights, self._sums = weights, {}

    def add(self, gradients: Mapping[str, Tensor]) -> None:
        """Take in one sample's gradients."""
        for name, gradient in gradients.items():
            if name in self._sums:
                self._sums[name] += gradient
            else:
                self._sums[name] = gradient.float()

    def end(self) -> dict[str, Tensor]:
        """The scores of the layer's weights, float64 scalars.

        Raises:
            InputError: a score is NaN or infinite.
        """
        scores = {
            name: total(self._weights[name].float() * gradient / self._samples, self._norm).cpu()
            for name, gradient in self._sums.items()
        }
        if not all(torch.isfinite(score) for score in scores.values()):
            raise InputError(overflow("products of weights and gradients", torch.float32))
        return scores


def order_of_removal(scores: Sequence[float | None]) -> list[int]:
    """Blocks by ascending score, of equals the first; those without a finite score last."""

    def key(block: int) -> tuple[bool, float]:
        score = scores[block]
        return score is None, score or 0.0

    return sorted(range(len(scores)), key=key)
