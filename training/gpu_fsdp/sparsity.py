"""Pruned weights stay zero: masks of what is trained, and the check that they were kept."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Masks:
    """Where a rank's shards may differ from zero: fixed by the pruned checkpoint.

    A weight that becomes zero by training can leave it again.
    """

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        self._kept = dict(kept)  # bool, of the shapes of the local shards

    def __bool__(self) -> bool:
        return bool(self._kept)

    def apply_to_gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Remove what is not trained before norms are taken."""
        for name, kept in self._kept.items():
            if (gradient := parameters[name].grad) is not None:
                local(gradient).mul_(kept)

    def apply(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Make exact zeros of what an optimizer that mixes a matrix's entries has moved."""
        with torch.no_grad():
            for name, kept in self._kept.items():
                local(parameters[name]).masked_fill_(~kept, 0)

    def broken(self, parameters: Mapping[str, nn.Parameter]) -> int:
        """Pruned weights of this rank that are not exactly zero."""
        return sum(
            int(torch.count_nonzero(local(parameters[name]).detach()[~kept]))
            for name, kept in self._kept.items()
        )


def local(tensor: Tensor) -> Tensor:
    """A rank's shard of a distributed tensor; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
