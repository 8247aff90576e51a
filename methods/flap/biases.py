"""The means of what goes, as biases of the two matrices that read it."""

from collections.abc import Sequence
from pathlib import Path

import torch

from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.shapes import Shapes
from espalier.pruning.structured.padded import Addition
from espalier.pruning.structured.units import LayerUnits, columns_of
from methods.flap.algorithm import compensation
from methods.flap.scored import SITES, Figures
from methods.flap.spec import BIASES
from methods.flap.statistics import MEAN


def means_as_biases(
    model: Path, figures: Figures, kept: Sequence[LayerUnits], shapes: Shapes
) -> Addition:
    """What is removed of each layer gave this on average; a bias that is there already takes it up.

    A matrix in memory at a time.
    """
    reader, tensors = CheckpointReader(model), {}
    with torch.inference_mode():
        for layer, units in enumerate(kept):
            columns = columns_of(units, shapes)
            for site, part in SITES.items():
                name = f"model.layers.{layer}.{part}"
                weight = reader.read(f"{name}.weight")
                bias = compensation(weight, figures[site][MEAN][layer], columns[part])
                if f"{name}.bias" in reader:
                    bias += reader.read(f"{name}.bias").float()
                tensors[f"{name}.bias"] = bias.to(weight.dtype)
    return Addition(tensors, BIASES)
