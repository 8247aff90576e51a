"""The manifest's account of a structured pruning."""

from typing import Any

from espalier.models.shapes import Shapes
from espalier.pruning.structured.parameters import FIELDS
from espalier.pruning.structured.restructure import Kept

SIZES = tuple(FIELDS.values())


def structured_section(parent: Shapes, target: Shapes, kept: Kept) -> dict[str, Any]:
    """What was aimed at, what of it the parent keeps, and which indices, in the order written.

    `target` is every size that is left; `achieved` the fraction of the parent's parameters that is
    gone, norms and biases aside.
    """
    width = any(getattr(parent, size) != getattr(target, size) for size in SIZES[1:])
    depth = parent.layers != target.layers
    section: dict[str, Any] = {
        "structure": "+".join(name for name, cut in (("depth", depth), ("width", width)) if cut),
        "target": {size: getattr(target, size) for size in SIZES},
        "achieved": 1 - target.parameters / parent.parameters,
        "policy": "densify",
        "kept_layers": list(kept.layers),
    }
    if depth:
        gone = set(range(parent.layers)) - set(kept.layers)
        section["dropped_layers"] = sorted(gone)
    if kept.hidden is not None:
        section["kept_hidden"] = list(kept.hidden)
    for name in ("intermediate", "heads", "kv_heads"):
        if by_layer := getattr(kept, name):
            section[f"kept_{name}"] = [list(by_layer[layer]) for layer in kept.layers]
    return section
