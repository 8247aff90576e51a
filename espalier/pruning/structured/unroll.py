"""PARAMS and STEPS become plain prunings, each to a shape of its own. Needs no torch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from espalier.contract.stage import Unrolled
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.structured.candidates import candidates, candidates_table
from espalier.pruning.structured.parameters import FIELDS, Axis, ShapeParameters
from espalier.pruning.structured.target import sized, target_shapes


def unroll(parameters: ShapeParameters, config: Mapping[str, Any]) -> Unrolled:
    """The prunings that `parameters` stand for, of a parent with this config.json.

    Raises:
        InputError: the shape cannot be reached, or has to be chosen without the config.
    """
    if not config:
        if parameters.params or parameters.steps > 1:
            raise InputError(
                "PARAMS and STEPS need the model's config.json; fetch it first (make fetch)."
            )
        return Unrolled((parameters,))
    parent, table = Shapes.of(config), None
    if parameters.params:
        fixed = target_shapes(parent, **parameters.sizes) if parameters.sizes else parent
        found = candidates(parent, parameters.params, parameters.searched, fixed)
        target, table = found[0].shapes, candidates_table(found, parameters.params)
    else:
        target = parameters.target(parent)
    shapes = between(parent, target, parameters.steps)
    steps = tuple(parameters.with_sizes(_sizes(parameters, parent, shape)) for shape in shapes)
    return Unrolled(steps, table, tuple(sized(config, shape) for shape in shapes))


def between(parent: Shapes, target: Shapes, steps: int) -> list[Shapes]:
    """At most `steps` shapes from below the parent to the target, evenly spaced; it is the last.

    Steps that would remove nothing, or whose heads do not divide any hidden size in reach, are left
    out.
    """
    ratio, ratio_left = parent.heads // parent.kv_heads, target.heads // target.kv_heads

    def part(start: int, end: int, step: int) -> int:
        return start - round((start - end) * step / steps)

    shapes: list[Shapes] = []
    for step in range(1, steps):
        before = shapes[-1] if shapes else parent
        groups = part(parent.kv_heads, target.kv_heads, step)
        heads = groups * part(ratio, ratio_left, step)
        hidden = -(-part(parent.hidden, target.hidden, step) // heads) * heads
        shape = replace(
            parent,
            layers=part(parent.layers, target.layers, step),
            hidden=hidden,
            intermediate=part(parent.intermediate, target.intermediate, step),
            kv_heads=groups,
            heads=heads,
        )
        if shape not in (before, target) and target.hidden <= hidden <= before.hidden:
            shapes.append(shape)
    return [*shapes, target]


def _sizes(parameters: ShapeParameters, parent: Shapes, shapes: Shapes) -> dict[Axis, int]:
    """The sizes of `shapes` that the parameters can name and that are not the parent's."""
    values = {axis: getattr(shapes, FIELDS[axis]) for axis in parameters.axes}
    sizes = {a: v for a, v in values.items() if v != getattr(parent, FIELDS[a])}
    if "heads" in sizes and "kv_heads" in values:
        sizes["kv_heads"] = values["kv_heads"]
    return sizes
