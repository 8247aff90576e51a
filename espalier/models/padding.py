"""Which entries of a padded model's tensors are padding. Needs no torch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from espalier.contract.pruned import Padded, PaddedAxis, PaddedLayer
from espalier.models.axes import LAYER_AXES, Axis

Range = tuple[int, int]
AXES: dict[Axis, PaddedAxis] = {
    "queries": "heads", "keys": "kv_heads", "intermediate": "intermediate",
}  # fmt: skip
"""The dimensions of tensors that padding lengthens, and whose widths they are."""


@dataclass(frozen=True)
class Padding:
    """A tensor's padding: an entry whose index lies in a range of any of its dimensions.

    Attributes:
        name: of the tensor, in full.
        shape: of the tensor.
        ranges: for each dimension, ascending ranges [first, end) of indices.
    """

    name: str
    shape: tuple[int, ...]
    ranges: tuple[tuple[Range, ...], ...]

    @property
    def entries(self) -> int:
        """How many entries of the tensor are padding."""
        true = math.prod(
            size - sum(end - first for first, end in ranges)
            for size, ranges in zip(self.shape, self.ranges, strict=True)
        )
        return math.prod(self.shape) - true


def paddings(
    account: Padded, shapes: Mapping[str, tuple[int, ...]], head_dim: int
) -> Iterator[Padding]:
    """Every tensor with padding, of those whose full names and shapes are given, layer by layer."""
    for number, layer in enumerate(account.layers):
        by_axis = {axis: _ranges(layer, axis, head_dim) for axis in AXES}
        for name, axes in LAYER_AXES.items():
            full = f"model.layers.{number}.{name}"
            ranges = tuple(by_axis.get(axis, ()) for axis in axes)
            if full in shapes and any(ranges):
                yield Padding(full, shapes[full], ranges)


def _ranges(layer: PaddedLayer, axis: Axis, head_dim: int) -> tuple[Range, ...]:
    """A dimension's indices of padding: a head has `head_dim` of them."""
    size = 1 if axis == "intermediate" else head_dim
    found = layer.padding.get(AXES[axis], ())
    return tuple((first * size, end * size) for first, end in found)
