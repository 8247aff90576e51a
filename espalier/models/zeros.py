"""Counting zeros in blocks, so that what is compared stays small."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK_ELEMENTS = 1 << 21
CACHED_ELEMENTS = 1 << 18
"""Counted on the host at a time: they stay in the processor's cache."""
_BITS: dict[int, tuple[Any, Any]] = {
    2: (torch.int16, np.int16(0x7FFF)),
    4: (torch.int32, np.int32(0x7FFFFFFF)),
}
"""By bytes an item: as which integers floats are counted, and all bits but the sign's."""


def row_blocks(matrix: Tensor, elements: int = BLOCK_ELEMENTS) -> Iterator[Tensor]:
    """Views of whole rows of `matrix` [R, C], of about `elements` elements each."""
    yield from matrix.split(max(1, elements // matrix.shape[1]))


def count_zeros(tensor: Tensor) -> int:
    """Zeros of a tensor of floats of any shape, of either sign."""
    flat = tensor.detach().reshape(-1)
    if flat.device.type != "cpu" or flat.element_size() not in _BITS:
        return sum(int((part == 0).sum()) for part in flat.split(BLOCK_ELEMENTS))
    # numpy counts integers by the processor's vector units, five times faster than torch floats.
    dtype, magnitude = _BITS[flat.element_size()]
    bits = flat.view(dtype).numpy()
    parts = (bits[i : i + CACHED_ELEMENTS] for i in range(0, len(bits), CACHED_ELEMENTS))
    return sum(len(part) - int(np.count_nonzero(part & magnitude)) for part in parts)
