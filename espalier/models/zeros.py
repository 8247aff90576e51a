"""Counting zeros in blocks of rows, so that what is compared stays small."""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1 << 21


def row_blocks(matrix: Tensor, elements: int = BLOCK_ELEMENTS) -> Iterator[Tensor]:
    """Views of whole rows of `matrix` [R, C], of about `elements` elements each."""
    yield from matrix.split(max(1, elements // matrix.shape[1]))


def count_zeros(matrix: Tensor) -> int:
    """Zeros of `matrix` [R, C], of either sign."""
    return sum(int(torch.count_nonzero(rows == 0)) for rows in row_blocks(matrix))
