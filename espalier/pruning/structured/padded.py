"""Writes a checkpoint whose layers keep different heads and neurons, in a shape that stock loaders
read: uniform at the widest layer, with zeros behind what each of the others keeps.

What is kept is copied as it is stored. A head or neuron of zeros adds nothing to the residual
stream, so the logits are those of the true widths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.progress import Progress
from espalier.contract.pruned import Padded, Uniform
from espalier.errors import InputError
from espalier.models.adapter import Architecture
from espalier.models.axes import LAYER_AXES, Axis
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.checkpoint.writer import Content, Selected
from espalier.models.content import config_as_stored
from espalier.models.shapes import Shapes
from espalier.pruning.structured.padded_record import account_of
from espalier.pruning.structured.restructure import (
    Selection,
    restructured_config,
    units_of,
    write_units,
)
from espalier.pruning.structured.target import with_kv_heads
from espalier.pruning.structured.units import LayerUnits, queries_of


@dataclass(frozen=True)
class Addition:
    """What a method adds to a checkpoint.

    Attributes:
        tensors: by their full names, such as a layer's biases.
        settings: entries of config.json; a bias that stock models then have, and that neither the
            parent nor `tensors` has, is zeros.
    """

    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]


NOTHING = Addition({}, {})


def write_padded(
    parent: Path,
    output: Path,
    kept: Sequence[LayerUnits],
    progress: Progress,
    added: Addition = NOTHING,
) -> Padded | Uniform:
    """Write into `output` what `kept` leaves of `parent`; what a killed run wrote is kept.

    Args:
        parent: a Hugging Face directory that has passed `check_parent`.
        output: where to.
        kept: of each layer, none of it padding of the parent's.
        progress: one step a layer.
        added: tensors and settings that the parent has not.

    Returns:
        the account: uniform where all layers fill the shape, padded where one does not.

    Raises:
        InputError: no layer keeps a head, or none a neuron.
        EnvironmentFailure: the disk cannot be written.
    """
    reader, architecture = CheckpointReader(parent), Architecture.of(parent)
    config = {**config_as_stored(parent), **added.settings}
    selection = _selection(kept, architecture.shapes)
    parts = units_of(architecture, reader, selection)
    target, stock = _stock_shape(config, kept, architecture.shapes)
    units: list[dict[str, Content]] = [
        {name: _filled_up(name, part, target) for name, part in unit.items()} for unit in parts
    ]
    biases = {
        name: torch.zeros(shape, dtype=architecture.dtype(reader))
        for name, shape in stock.items()
        if name.endswith(".bias") and name not in reader
    }
    for name, tensor in {**biases, **added.tensors}.items():
        units[int(name.split(".")[2])][name] = tensor
    write_units(output, units, stock, progress)
    copy_companions(parent, output)
    changed = restructured_config(config, selection.layers, target)
    write_text(output / CONFIG, to_json(changed, indent=2) + "\n")
    return account_of(parent, kept, architecture.shapes, target)


def _selection(kept: Sequence[LayerUnits], shapes: Shapes) -> Selection:
    return Selection(
        layers=range(len(kept)),
        intermediate={number: layer.neurons for number, layer in enumerate(kept)},
        heads={number: queries_of(layer, shapes) for number, layer in enumerate(kept)},
        kv_heads={number: layer.kv_heads for number, layer in enumerate(kept)},
    )


def _stock_shape(
    config: Mapping[str, Any], kept: Sequence[LayerUnits], shapes: Shapes
) -> tuple[Shapes, dict[str, tuple[int, ...]]]:
    """The narrowest shape that holds every layer and that stock transformers has; its tensors.

    Not every number of heads will do: some families want one that divides the hidden width.
    """
    widest = max(len(layer.kv_heads) for layer in kept)
    neurons = max(len(layer.neurons) for layer in kept)
    if not widest or not neurons:
        raise InputError("nothing is left of any layer's attention or FFN; prune less.")
    for narrow in with_kv_heads(shapes, widest):
        target = replace(narrow, intermediate=neurons)
        changed = restructured_config(config, range(len(kept)), target)
        try:
            stock = Architecture(changed).expected_shapes()
        except InputError:
            continue
        if all(stock[name] == shape for name, shape in _shapes(stock, target)):
            return target, stock
    raise InputError(
        f"stock transformers has no {config['model_type']} of {neurons} neurons; prune another "
        "share."
    )


def _shapes(
    stock: Mapping[str, tuple[int, ...]], target: Shapes
) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the layers' tensors as the stored heads need them."""
    widths = _widths(target)
    return [
        (name, tuple(widths.get(axis, size) for axis, size in zip(axes, shape, strict=True)))
        for name, shape in stock.items()
        if (axes := _axes(name)) is not None
    ]


def _filled_up(name: str, part: Selected, target: Shapes) -> Selected:
    axes = _axes(name)
    if axes is None:
        return part
    widths, sizes = _widths(target), zip(axes, part.shape, strict=True)
    return replace(part, padded=tuple(widths.get(axis, size) for axis, size in sizes))


def _axes(name: str) -> tuple[Axis, ...] | None:
    """Of a layer's tensor by its full name; None: it is of no layer."""
    return LAYER_AXES[name.split(".", 3)[3]] if name.startswith("model.layers.") else None


def _widths(shapes: Shapes) -> dict[Axis, int]:
    return {
        "queries": shapes.heads * shapes.head_dim,
        "keys": shapes.kv_heads * shapes.head_dim,
        "intermediate": shapes.intermediate,
    }
