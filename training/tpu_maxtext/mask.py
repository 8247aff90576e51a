"""Where the trained weights may differ from zero, read like the weights themselves."""

from pathlib import Path
from typing import Any

import numpy as np

from espalier.models.found_zeros import is_masked
from espalier.models.shapes import Shapes
from training.maxtext_model.checkpoint import StoredWeights
from training.maxtext_model.names import Weight, weights
from training.protocol.sparsity import Zeros


class KeptEntries(StoredWeights):
    """False where a checkpoint's zeros stay: `load` gives bool arrays of the weights' shapes.

    Attributes:
        masked: the paths in MaxText of the parameters that hold such zeros.
    """

    def __init__(self, directory: Path, shapes: Shapes, zeros: Zeros, *, scanned: bool) -> None:
        super().__init__(directory, shapes, scanned=scanned)
        found = list(weights(shapes, scanned=scanned))
        self._zeros = zeros
        self._padding = zeros.padding({w.name: w.stored for w in found}, shapes.head_dim)
        self.masked = {weight.path for weight in found if self._is_masked(weight)}

    def _is_masked(self, weight: Weight) -> bool:
        if self._zeros.padded is not None:
            return weight.name in self._padding
        return is_masked(weight.name, weight.stored)

    def _tensor(self, weight: Weight) -> np.ndarray[Any, Any]:
        if self._zeros.padded is None:
            return np.asarray(super()._tensor(weight) != 0)
        kept = np.ones(weight.stored, bool)
        if padding := self._padding.get(weight.name):
            for dimension, ranges in enumerate(padding.ranges):
                for first, end in ranges:
                    np.moveaxis(kept, dimension, 0)[first:end] = False
        return np.asarray(weight.to_maxtext(kept))
