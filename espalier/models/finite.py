"""Seeing that activations stay finite, at one cheap reduction for each tensor.

Nothing is read from the device until all are asked about: a walk waits once a layer.
"""

from typing import Any

import torch
from torch import Tensor

from espalier.errors import InputError


class Extremes:
    """The smallest and the largest value of tensors of one dtype, kept where they were computed.

    Extremes propagate NaN and infinities, and need no buffer.
    """

    def __init__(self) -> None:
        self._seen: list[Tensor] = []
        self._dtype: Any = None

    def add(self, tensor: Tensor) -> None:
        """Take in a tensor of any shape that is not empty."""
        self._seen += torch.aminmax(tensor.detach())
        self._dtype = tensor.dtype

    def require_finite(self, layer: int) -> None:
        """Refuse NaN and infinities in what was taken in since the last call.

        Raises:
            InputError: there are some; it names the layer and the dtype.
        """
        seen, self._seen = self._seen, []
        if seen and not bool(torch.isfinite(torch.stack(seen)).all()):
            raise InputError(overflow(f"layer {layer}'s activations", self._dtype))


def overflow(what: str, dtype: Any) -> str:
    """What to say where `what`, a plural, holds NaN or infinities in the torch dtype `dtype`."""
    if dtype == torch.float16:
        return f"{what} overflow float16 on these tokens; use bfloat16 or float32."
    name = str(dtype).removeprefix("torch.")
    return (
        f"{what} became NaN or infinite in {name} on these tokens; check that the weights "
        "are whole and belong to this config.json."
    )


def none_unless_finite(inputs: Tensor) -> Tensor:
    """A zero [1] of the inputs' dtype that is NaN where any input is NaN or infinite."""
    low, high = torch.aminmax(inputs)
    return (low * 0 + high * 0)[None]
