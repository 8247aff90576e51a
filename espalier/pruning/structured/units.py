"""What structured methods take out of a layer: groups of heads, and neurons.

A group is a key-value head with the query heads that read it: they leave together, so that every
query head that stays finds its keys and values.

Shapes: Q = heads x head_dim inputs of o_proj, K key-value heads, G query heads of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from espalier.contract.manifest import pruning_of
from espalier.contract.pruned import Padded
from espalier.models.content import config_as_stored
from espalier.models.shapes import Shapes
from espalier.models.zeros import row_blocks
from espalier.pruning.structured.restructure import head_rows

ATTENTION, MLP = "self_attn.o_proj", "mlp.down_proj"
"""The matrices whose inputs are what heads and neurons give: a column of theirs is a feature."""


@dataclass(frozen=True)
class LayerUnits:
    """Heads and neurons of one layer, as places in the stored tensors, ascending.

    Attributes:
        kv_heads: key-value heads; each goes with the query heads that read it.
        neurons: of the FFN.
    """

    kv_heads: tuple[int, ...]
    neurons: tuple[int, ...]


def true_units(model: Path) -> list[LayerUnits]:
    """For each layer of a model the heads and neurons that are no padding."""
    shapes, account = Shapes.of(config_as_stored(model)), pruning_of(model)
    if not isinstance(account, Padded):
        whole = LayerUnits(tuple(range(shapes.kv_heads)), tuple(range(shapes.intermediate)))
        return [whole] * shapes.layers
    return [
        LayerUnits(
            layer.true_places("kv_heads", shapes.kv_heads),
            layer.true_places("intermediate", shapes.intermediate),
        )
        for layer in account.layers
    ]


def group_of(kv_head: int, shapes: Shapes) -> range:
    """The query heads that read a key-value head."""
    size = shapes.heads // shapes.kv_heads
    return range(kv_head * size, (kv_head + 1) * size)


def queries_of(units: LayerUnits, shapes: Shapes) -> list[int]:
    """The query heads of a layer's groups."""
    return [query for head in units.kv_heads for query in group_of(head, shapes)]


def by_group(features: Tensor, shapes: Shapes) -> Tensor:
    """Something of o_proj's inputs [Q], or those of some groups, by what they belong to.

    Returns:
        [K, G, head_dim], K as many groups as there are.
    """
    return features.unflatten(-1, (-1, shapes.heads // shapes.kv_heads, shapes.head_dim))


def columns_of(units: LayerUnits, shapes: Shapes) -> dict[str, Tensor]:
    """The columns that read these units, int64, of the two matrices by their names in a layer."""
    neurons = torch.tensor(units.neurons, dtype=torch.int64)
    return {ATTENTION: head_rows(queries_of(units, shapes), shapes.head_dim), MLP: neurons}


def places_among(there: Sequence[LayerUnits], chosen: Sequence[LayerUnits]) -> list[LayerUnits]:
    """From places among the units of each layer that are there to their places in its tensors."""
    return [
        LayerUnits(
            tuple(units.kv_heads[place] for place in places.kv_heads),
            tuple(units.neurons[place] for place in places.neurons),
        )
        for units, places in zip(there, chosen, strict=True)
    ]


def column_sizes(weight: Tensor) -> Tensor:
    """mean_i |W_ij| of each column of `weight` [R, C]: float64 [C]."""
    nothing = weight.new_zeros(weight.shape[1], dtype=torch.float64)
    return sum((rows.double().abs().sum(dim=0) for rows in row_blocks(weight)), nothing) / len(
        weight
    )


def all_but_lowest(scores: Tensor, count: int) -> tuple[int, ...]:
    """The indices, ascending, without the `count` lowest of `scores` [N]; of equals the first go.

    Where no two are equal this is what lies at or above the value at place `count` of the ascending
    scores, and above the one before it.
    """
    order = scores.sort(stable=True).indices
    return tuple(sorted(order[count:].tolist()))
