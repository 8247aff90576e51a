"""Matrices in blocks of rows, so that scores and masks stay small beside a layer."""

from collections.abc import Iterator

from torch import Tensor

BLOCK_ELEMENTS = 1 << 21


def row_blocks(matrix: Tensor, elements: int = BLOCK_ELEMENTS) -> Iterator[Tensor]:
    """Views of whole rows of `matrix` [R, C], of about `elements` elements each."""
    yield from matrix.split(max(1, elements // matrix.shape[1]))
