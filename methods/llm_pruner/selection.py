"""Which heads, neurons and channels stay: those that the loss would miss most.

Shapes: K key-value heads, Q query heads, D head_dim, F neurons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.structured.units import LayerUnits, all_but_lowest
from methods.llm_pruner.left import kept, kept_heads


@dataclass(frozen=True)
class LayerImportance:
    """Of one layer's heads, each with all that goes with it [K], and of its neurons [F]."""

    heads: Tensor
    neurons: Tensor


def of_heads(queries: Tensor, keys: Tensor, shapes: Shapes, *, reference: bool = False) -> Tensor:
    """From importances of the rows of queries [Q D] and of keys [K D] to those of K groups [K].

    A key-value head goes with the query heads that read it: of G = Q / K in a group those of head k
    are G k to G k + G - 1. The reference folds the query rows by [G, K D] and so adds to head k the
    query heads k, k + K, k + 2 K, ... that read other heads.
    """
    group, rows = shapes.heads // shapes.kv_heads, shapes.kv_heads * shapes.head_dim
    if reference:
        folded = queries.view(group, rows).sum(dim=0)  # [K D]
        return (folded + keys).view(shapes.kv_heads, -1).sum(dim=1)
    own = queries.view(shapes.kv_heads, group * shapes.head_dim)  # [K, G D]
    return own.sum(dim=1) + keys.view(shapes.kv_heads, -1).sum(dim=1)


def local(
    importance: LayerImportance, there: LayerUnits, origin: Shapes, sparsity: float
) -> LayerUnits:
    """What a layer keeps where every layer gives up the same share.

    Args:
        importance: of everything that is stored.
        there: what is stored and no padding.
        origin: the sizes of the model when it was whole, of which the share is taken.
        sparsity: the share.

    Raises:
        InputError: nothing would be left.
    """
    heads = kept_heads(origin.kv_heads, origin.head_dim, sparsity)
    neurons = kept(origin.intermediate, sparsity)
    if not heads or not neurons:
        raise InputError(f"SPARSITY={sparsity:g} leaves a layer no head or no neuron; give less.")
    return LayerUnits(
        largest(importance.heads, there.kv_heads, heads),
        largest(importance.neurons, there.neurons, neurons),
    )


def largest(importance: Tensor, among: Sequence[int], count: int) -> tuple[int, ...]:
    """The `count` places of largest importance among some, ascending; of equals the later stay."""
    own = importance[torch.tensor(among, dtype=torch.int64)]
    return tuple(among[place] for place in all_but_lowest(own, max(0, len(among) - count)))


def over_layers(
    importance: Sequence[LayerImportance],
    there: Sequence[LayerUnits],
    layers: Sequence[int],
    origin: Shapes,
    sparsity: float,
) -> list[LayerUnits]:
    """What each layer keeps where all their units compete, by importance a parameter.

    Units go, the least important for its parameters first, until as close as can be to `sparsity`
    of the parameters that these layers had. The best head and the best neuron of a layer stay.

    Args:
        importance: of all layers.
        there: of all layers, what is stored and no padding.
        layers: those that are pruned.
        origin: the sizes of the model when it was whole.
        sparsity: the share.
    """
    head_size = 2 * (1 + origin.heads // origin.kv_heads) * origin.head_dim * origin.hidden
    neuron_size = 3 * origin.hidden
    target = len(layers) * origin.layer_parameters * sparsity
    removed = sum(
        head_size * (origin.kv_heads - len(there[layer].kv_heads))
        + neuron_size * (origin.intermediate - len(there[layer].neurons))
        for layer in layers
    )
    units: list[tuple[float, int, str, int, int]] = []
    for layer in layers:
        found, own = importance[layer], there[layer]
        for kind, values, places, size in (
            ("heads", found.heads, own.kv_heads, head_size),
            ("neurons", found.neurons, own.neurons, neuron_size),
        ):
            best = largest(values, places, 1)
            units += [
                (float(values[place]) / size, layer, kind, place, size)
                for place in places
                if place not in best
            ]
    gone: dict[tuple[int, str], set[int]] = {}
    for _, layer, kind, place, size in sorted(units):
        if removed + size / 2 > target:
            break
        gone.setdefault((layer, kind), set()).add(place)
        removed += size
    return [
        LayerUnits(
            tuple(p for p in own.kv_heads if p not in gone.get((layer, "heads"), ())),
            tuple(p for p in own.neurons if p not in gone.get((layer, "neurons"), ())),
        )
        for layer, own in enumerate(there)
    ]
