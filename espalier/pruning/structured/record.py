"""The manifest's account of a structured pruning."""

from collections.abc import Mapping, Sequence

from espalier.contract.pruned import KeptIndices, Sizes, Uniform
from espalier.models.shapes import Shapes
from espalier.pruning.structured.restructure import Selection


def uniform(
    parent: Shapes, target: Shapes, kept: Selection, removal_order: Sequence[int] | None = None
) -> Uniform:
    """From which sizes to which, and which indices of the parent, in the order written.

    `achieved` is the fraction of the parent's parameters that is gone, norms and biases aside.
    """
    return Uniform(
        before=sizes_of(parent),
        after=sizes_of(target),
        achieved=1 - target.parameters / parent.parameters,
        kept=KeptIndices(
            layers=tuple(kept.layers),
            hidden=None if kept.hidden is None else tuple(kept.hidden),
            intermediate=_by_new_layer(kept, kept.intermediate),
            heads=_by_new_layer(kept, kept.heads),
            kv_heads=_by_new_layer(kept, kept.kv_heads),
        ),
        dropped_layers=tuple(sorted(set(range(parent.layers)) - set(kept.layers))),
        removal_order=None if removal_order is None else tuple(removal_order),
    )


def sizes_of(shapes: Shapes) -> Sizes:
    """The sizes that pruning may change."""
    return Sizes(**{name: getattr(shapes, name) for name in Sizes.model_fields})


def _by_new_layer(
    kept: Selection, by_layer: Mapping[int, Sequence[int]]
) -> tuple[tuple[int, ...], ...] | None:
    return tuple(tuple(by_layer[layer]) for layer in kept.layers) if by_layer else None
