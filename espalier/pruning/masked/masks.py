"""Applying masks."""

import torch
from torch import Tensor

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def zero_where(matrix: Tensor, removed: Tensor) -> None:
    """Write +0 in place where `removed` (bool, the matrix's shape) holds.

    Multiplying the bit patterns by 0 or 1 is many times faster than a masked fill.
    """
    matrix.view(_BITS[matrix.element_size()]).mul_(~removed)
