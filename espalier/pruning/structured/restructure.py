"""Writes a checkpoint without some of its layers, channels, neurons and heads, a tensor at a time.

What is kept is copied as it is stored: nothing is rescaled. Indices are written in the order given,
so that the order of importance can be kept; the logits do not depend on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.progress import Progress
from espalier.errors import InputError
from espalier.models.adapter import Architecture
from espalier.models.axes import LAYER_AXES, OUTER_AXES, Axis
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.checkpoint.writer import CheckpointWriter, Content, Selected, spec_of
from espalier.models.content import config_as_stored
from espalier.models.shapes import Shapes
from espalier.pruning.structured.target import sized


@dataclass(frozen=True)
class Selection:
    """What is kept of a model; None, or an absent layer, keeps all of an axis as it is.

    Attributes:
        layers: the parent's layers, in order.
        hidden: channels of the residual stream, shared by all layers.
        intermediate: FFN neurons, by the parent's layer.
        heads: query heads, by the parent's layer; those of one key-value head stand together.
        kv_heads: key-value heads, by the parent's layer, in the order of their query heads.
    """

    layers: Sequence[int]
    hidden: Sequence[int] | None = None
    intermediate: Mapping[int, Sequence[int]] = field(default_factory=dict)
    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)
    kv_heads: Mapping[int, Sequence[int]] = field(default_factory=dict)


def restructure(
    parent: Path, output: Path, kept: Selection, target: Shapes, progress: Progress
) -> None:
    """Write into `output` what `kept` leaves of `parent`; what a killed run wrote is kept.

    Args:
        parent: a Hugging Face directory that has passed `check_parent`.
        output: where to; a file is complete or absent.
        kept: what is kept.
        target: the shapes that result.
        progress: one step a layer.

    Raises:
        InputError: stock transformers has no such shape.
        EnvironmentFailure: the disk cannot be written.
    """
    reader, architecture = CheckpointReader(parent), Architecture.of(parent)
    config = restructured_config(config_as_stored(parent), kept.layers, target)
    units = units_of(architecture, reader, kept)
    parts = {name: part for unit in units for name, part in unit.items()}
    stock = Architecture(config).expected_shapes()
    check_stock_shapes(config, stock, {name: part.shape for name, part in parts.items()})
    write_units(output, units, stock, progress)
    copy_companions(parent, output)
    write_text(output / CONFIG, to_json(config, indent=2) + "\n")


def write_units(
    output: Path, units: Sequence[Mapping[str, Content]], order: Iterable[str], progress: Progress
) -> None:
    """Write tensors, a unit at a time; what a killed run wrote is kept.

    Args:
        output: where to.
        units: of `units_of`, and what is added to them.
        order: names in the order in which files are filled; those of no unit are passed over.
        progress: one step a unit.

    Raises:
        EnvironmentFailure: the disk cannot be written.
    """
    parts = {name: part for unit in units for name, part in unit.items()}
    specs = [spec_of(name, parts[name]) for name in order if name in parts]
    writer = CheckpointWriter(output, specs, resume=True)
    with progress.steps("write", len(units)) as steps:
        for unit in units:
            writer.write(unit)
            steps.advance()
    writer.finish()


def restructured_config(
    config: Mapping[str, Any], layers: Sequence[int], target: Shapes
) -> dict[str, Any]:
    """The parent's config.json with the sizes of `target`; head_dim is stated, not implied."""
    changed = sized(config, target)
    if config.get("layer_types"):
        changed["layer_types"] = [config["layer_types"][layer] for layer in layers]
    if config.get("max_window_layers") is not None:
        changed["max_window_layers"] = sum(
            layer < int(config["max_window_layers"]) for layer in layers
        )
    return changed


def units_of(
    architecture: Architecture, reader: CheckpointReader, kept: Selection
) -> list[dict[str, Selected]]:
    """For each kept layer, and for what is outside: new name to part of the parent's tensor."""
    head_dim = architecture.shapes.head_dim
    units = []
    for new, old in enumerate(kept.layers):
        chosen = _layer_indices(kept, old, head_dim)
        prefix = f"model.layers.{old}."
        units.append(
            {
                f"model.layers.{new}.{name.removeprefix(prefix)}": _select(
                    reader, name, LAYER_AXES[name.removeprefix(prefix)], chosen
                )
                for name in architecture.layer_tensor_names(old)
            }
        )
    outer: dict[Axis, Tensor | None] = {"hidden": _indices(kept.hidden)}
    names = architecture.outer_tensor_names(reader)
    units.append({name: _select(reader, name, OUTER_AXES[name], outer) for name in names})
    return units


def _layer_indices(kept: Selection, layer: int, head_dim: int) -> dict[Axis, Tensor | None]:
    return {
        "hidden": _indices(kept.hidden),
        "intermediate": _indices(kept.intermediate.get(layer)),
        "queries": _all_or(kept.heads.get(layer), head_dim),
        "keys": _all_or(kept.kv_heads.get(layer), head_dim),
    }


def _indices(chosen: Sequence[int] | None) -> Tensor | None:
    return None if chosen is None else torch.tensor(chosen, dtype=torch.int64)


def _all_or(heads: Sequence[int] | None, head_dim: int) -> Tensor | None:
    return None if heads is None else head_rows(heads, head_dim)


def head_rows(heads: Sequence[int], head_dim: int) -> Tensor:
    """The rows of whole heads, int64 [heads * head_dim]."""
    starts = torch.tensor(heads, dtype=torch.int64)[:, None] * head_dim
    return (starts + torch.arange(head_dim)).flatten()


def _select(
    reader: CheckpointReader,
    name: str,
    axes: tuple[Axis, ...],
    chosen: Mapping[Axis, Tensor | None],
) -> Selected:
    return Selected(reader.entries[name], *(chosen.get(axis) for axis in axes))


def check_stock_shapes(
    config: dict[str, Any],
    stock: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Some versions take some families' head_dim from hidden / heads, whatever config.json says.

    Args:
        config: of the new shape.
        stock: the tensors' shapes that the stock model makes of it.
        shapes: those that are to be written.

    Raises:
        InputError: they differ.
    """
    for name, shape in shapes.items():
        if stock.get(name) != shape:
            raise InputError(
                f"stock transformers has no {config['model_type']} of this shape: {name} would be "
                f"{list(shape)} where it makes {list(stock.get(name, ()))}; keep hidden = heads x "
                "head_dim."
            )
