"""What a layer-wise pruning method gives to the streaming loop."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from espalier.pruning.masked.statistics import Statistic


class LayerMethod(Protocol):
    """Prunes matrices from a statistic of their inputs.

    Attributes:
        uses_activations: False skips every forward pass.
    """

    uses_activations: bool

    def statistic(self, features: int, device: str) -> Statistic:
        """An empty statistic for a group of matrices with `features` inputs."""

    def prune(
        self, weights: Mapping[str, Tensor], statistic: Statistic, sparsity: float
    ) -> dict[str, Any]:
        """Prune in place the matrices [rows, features] that share one input.

        What is zero before is zero afterwards.

        Returns:
            facts for the manifest, by name; `dead_inputs` is how many of the features were never
            anything but zero, where all weights on those are zeroed.

        Raises:
            InputError: the statistic has seen no tokens, or cannot be used.
        """

    def attainable(self, rows: int, columns: int, sparsity: float) -> int:
        """How many weights of a [rows, columns] matrix the method zeroes at `sparsity`."""
