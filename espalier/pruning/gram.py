"""Sums of products of features, X^T X, as tokens pass."""

from torch import Tensor

PANEL = 512
"""Columns handled at a time; a symmetric product of panels costs little over half of a full one."""


def add_gram(matrix: Tensor, rows: Tensor, before: float = 1.0) -> None:
    """Matrix <- before * matrix + rows^T rows, in place, on and above the diagonal panels.

    Args:
        matrix: [C, C]; what lies below its diagonal panels is neither read nor written.
        rows: [N, C], of the matrix's dtype and device.
        before: what becomes of the sum so far.
    """
    features = rows.shape[1]
    for start in range(0, features, PANEL):
        stop = min(start + PANEL, features)
        matrix[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:], beta=before)
