"""The layer Hessian of SparseGPT and its factorisation.

Frantar & Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
§3.1–3.2: H = 2/N sum X X^T + damping, and the upper Cholesky factor U of its inverse,
H^-1 = U^T U. With H = R R^T, R upper triangular, U = R^-1: one factorisation and one triangular
inverse, both in place, instead of Cholesky, inverse and Cholesky again.
"""

import math

import torch
from torch import Tensor

from espalier.pruning.gram import PANEL, add_gram

SMALL = 256
"""Triangles up to this width are inverted by substitution."""


class Hessian:
    """Running H = 2/N sum over samples of X^T X, upper triangle only.

    Attributes:
        matrix: float32 [C, C]; below the diagonal panels it is not kept up.
        samples: how many were taken in.
    """

    def __init__(self, features: int, device: str) -> None:
        self.matrix = torch.zeros((features, features), dtype=torch.float32, device=device)
        self.samples = 0

    def add(self, inputs: Tensor) -> None:
        """Take in inputs [B, T, C]; the running form keeps H's scale from sample to sample."""
        count = inputs.shape[0]
        before, self.samples = self.samples, self.samples + count
        x = inputs.reshape(-1, inputs.shape[-1]).float() * math.sqrt(2 / self.samples)  # [B*T, C]
        add_gram(self.matrix, x, before / self.samples)


def mirror_upper(matrix: Tensor) -> None:
    """Copy the upper triangle onto the lower, in place."""
    size = matrix.shape[0]
    for start in range(0, size, PANEL):
        stop = min(start + PANEL, size)
        corner = matrix[start:stop, start:stop]
        corner.copy_(corner.triu() + corner.triu(1).T)
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T


def mirror_lower(matrix: Tensor) -> None:
    """Copy the strict lower triangle onto the upper, in place."""
    size = matrix.shape[0]
    for start in range(0, size, PANEL):
        stop = min(start + PANEL, size)
        corner = matrix[start:stop, start:stop]
        corner.copy_(corner.tril() + corner.tril(-1).T)
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T


def factorise_upper(matrix: Tensor) -> bool:
    """Write R with matrix = R R^T over the upper triangle [C, C]; the strict lower one stays.

    Returns:
        False where the matrix is not positive definite; its upper triangle is then spoilt.
    """
    size = matrix.shape[0]
    for stop in range(size, 0, -PANEL):
        start = max(stop - PANEL, 0)
        corner = matrix[start:stop, start:stop]
        upper = corner.triu()
        full = upper + corner.triu(1).T
        # Reversed in both directions, a lower factor becomes the upper one wanted.
        lower, failed = torch.linalg.cholesky_ex(full.flip(0, 1))
        if int(failed) or not bool(torch.isfinite(lower).all()):
            return False
        factor = lower.flip(0, 1)
        corner.copy_(factor + corner.tril(-1))
        if start:
            above = matrix[:start, start:stop]
            # above <- above factor^-T
            above.copy_(torch.linalg.solve_triangular(factor.T, above, upper=False, left=False))
            for first in range(0, start, PANEL):
                last = min(first + PANEL, start)
                block = matrix[first:last, first:start]
                kept = matrix[first:last, first:last].tril(-1)
                block.addmm_(above[first:last], above[first:].T, alpha=-1)
                corner_above = matrix[first:last, first:last]
                corner_above.copy_(corner_above.triu() + kept)
    return True


def invert_upper(matrix: Tensor) -> None:
    """Invert an upper triangular matrix [C, C] in place; what lies below is neither read nor kept.

    [[A, B], [0, D]]^-1 = [[A^-1, -A^-1 B D^-1], [0, D^-1]], applied recursively.
    """
    size = matrix.shape[0]
    if size <= SMALL:
        identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        matrix.copy_(torch.linalg.solve_triangular(matrix, identity, upper=True))
        return
    half = size // 2
    first, second, across = matrix[:half, :half], matrix[half:, half:], matrix[:half, half:]
    solved = torch.linalg.solve_triangular(first, across, upper=True)
    across.copy_(torch.linalg.solve_triangular(second, solved, upper=True, left=False).neg_())
    del solved
    matrix[half:, :half] = 0
    invert_upper(first)
    invert_upper(second)


def inverse_factor(matrix: Tensor, damping: float, max_damping: float) -> tuple[Tensor, float]:
    """U with (H + d mean(diag H) I)^-1 = U^T U, in place of H.

    Args:
        matrix: H, float32 [C, C], symmetric, zero-free diagonal.
        damping: d at first; ten times as much is tried each time the matrix is not positive
            definite, up to `max_damping`.
        max_damping: the most.

    Returns:
        U, upper triangular [C, C], and the damping that held.

    Raises:
        ArithmeticError: it is not positive definite with `max_damping` either.
    """
    diagonal = matrix.diagonal().clone()
    mean = diagonal.mean()
    while True:
        matrix.diagonal().copy_(diagonal + damping * mean)
        if factorise_upper(matrix):
            invert_upper(matrix)
            return matrix, damping
        if damping >= max_damping:
            raise ArithmeticError("the Hessian is not positive definite")
        mirror_lower(matrix)
        damping = min(damping * 10, max_damping)
