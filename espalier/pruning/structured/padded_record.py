"""The manifest's account of layers of different widths in one stored shape."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from espalier.contract.manifest import pruning_of
from espalier.contract.pruned import KeptIndices, Padded, PaddedAxis, PaddedLayer, Uniform
from espalier.models.shapes import Shapes
from espalier.pruning.structured.record import sizes_of
from espalier.pruning.structured.units import LayerUnits, queries_of


def account_of(
    parent: Path, kept: Sequence[LayerUnits], shapes: Shapes, target: Shapes
) -> Padded | Uniform:
    """What was pruned, of the model that was whole where the parent was padded already."""
    earlier = pruning_of(parent)
    padded = earlier if isinstance(earlier, Padded) else None
    before = sizes_of(shapes) if padded is None else padded.before
    layers = [_layer(units, number, shapes, target, padded) for number, units in enumerate(kept)]
    achieved = 1 - _parameters(layers, shapes) / replace(shapes, **dict(before)).parameters
    indices = _origins(kept, shapes, padded)
    if all(not layer.padding for layer in layers):
        after = sizes_of(target)
        return Uniform(before=before, after=after, achieved=achieved, kept=indices)
    return Padded(
        before=before,
        after=sizes_of(target),
        achieved=achieved,
        layers=tuple(layers),
        kept=indices,
    )


def _layer(
    units: LayerUnits, number: int, shapes: Shapes, target: Shapes, padded: Padded | None
) -> PaddedLayer:
    queries = queries_of(units, shapes)
    empty = [
        place
        for place, query in enumerate(queries)
        if padded is not None and padded.layers[number].is_padding("heads", query)
    ]
    heads = _ranges([*empty, *range(len(queries), target.heads)])
    padding: dict[PaddedAxis, tuple[tuple[int, int], ...]] = {
        "heads": heads,
        "kv_heads": _ranges(range(len(units.kv_heads), target.kv_heads)),
        "intermediate": _ranges(range(len(units.neurons), target.intermediate)),
    }
    return PaddedLayer(
        heads=len(queries) - len(empty),
        kv_heads=len(units.kv_heads),
        intermediate=len(units.neurons),
        padding={axis: ranges for axis, ranges in padding.items() if ranges},
    )


def _ranges(places: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending places as ranges [first, end)."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place:
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
    return tuple(found)


def _origins(kept: Sequence[LayerUnits], shapes: Shapes, padded: Padded | None) -> KeptIndices:
    """Which indices of the model that was whole are left.

    Of a padded parent whose manifest does not say which, its own places are.
    """
    places: dict[PaddedAxis, Sequence[Sequence[int]]] = {
        "heads": [queries_of(units, shapes) for units in kept],
        "kv_heads": [units.kv_heads for units in kept],
        "intermediate": [units.neurons for units in kept],
    }
    if padded is None or padded.kept is None:
        own = {str(axis): tuple(map(tuple, of_layers)) for axis, of_layers in places.items()}
        return KeptIndices.model_validate({"layers": tuple(range(len(kept))), **own})
    before = padded.kept
    origins = {
        str(axis): tuple(
            _traced(found, getattr(before, axis)[number], padded, number, axis)
            for number, found in enumerate(of_layers)
        )
        for axis, of_layers in places.items()
        if getattr(before, axis) is not None
    }
    whole = {"layers": before.layers, "hidden": before.hidden}
    return KeptIndices.model_validate({**whole, **origins})


def _traced(
    places: Sequence[int], origins: Sequence[int], padded: Padded, layer: int, axis: PaddedAxis
) -> tuple[int, ...]:
    """Places of a padded parent's axis as indices of the model that was whole."""
    true = padded.layers[layer].true_places(axis, getattr(padded.after, axis))
    by_place = dict(zip(true, origins, strict=True))
    return tuple(by_place[place] for place in places if place in by_place)


def _parameters(layers: Sequence[PaddedLayer], shapes: Shapes) -> int:
    """Of layers of these true widths; norms and biases aside."""
    own = sum(
        replace(
            shapes, layers=1, heads=layer.heads, kv_heads=layer.kv_heads,
            intermediate=layer.intermediate,
        ).layer_parameters
        for layer in layers
    )  # fmt: skip
    return shapes.parameters - shapes.layers * shapes.layer_parameters + own
