"""The pictures of a report: scores against costs, block influence, what is gone of each layer."""

from collections.abc import Callable, Iterator, Sequence
from xml.etree import ElementTree as ET

from espalier.contract.pruned import (
    PADDED_AXES,
    Foreign,
    Masked,
    Padded,
    Pruned,
    Uniform,
    as_pruned,
)
from eval.reporting.collected import Checkpoint
from eval.reporting.drawing import Point, heat, lines, scatter
from eval.reporting.facts import Facts
from eval.reporting.measured import Column, overview

COSTS: dict[str, Callable[[Facts], float | None]] = {
    "non-zero parameters": lambda facts: facts.nonzero,
    "tokens of the lineage": lambda facts: facts.tokens,
    "FLOPs of the lineage": lambda facts: facts.flops,
}
INFLUENCE = "block-influence"
Gone = dict[str, list[float | None]]
"""By matrix or axis, and layer of the parent: the fraction that is gone or zero."""


def costs(
    checkpoints: Sequence[Checkpoint], found: Sequence[Column]
) -> Iterator[tuple[str, ET.Element]]:
    """Caption and picture of each headline score against each cost, where two can be compared."""
    facts = [Facts.of(checkpoint) for checkpoint in checkpoints]
    for column in overview(found):
        scale, unit = (100, ", %") if column.first.is_fraction else (1, "")
        for cost, cost_of in COSTS.items():
            points = [
                Point(
                    name=checkpoints[place].shown,
                    group=facts[place].method,
                    x=x,
                    y=one.value * scale,
                    error=None if one.stderr is None else one.stderr * scale,
                )
                for place, one in sorted(column.values.items())
                if (x := cost_of(facts[place])) is not None
            ]
            if len(points) > 1:
                yield f"{column.label} against {cost}", scatter(points, cost, column.label + unit)


def influences(checkpoints: Sequence[Checkpoint]) -> Iterator[tuple[str, ET.Element]]:
    """Block influence, a line for each model and text that it was measured on."""
    measured: dict[str, list[float]] = {}
    for checkpoint in checkpoints:
        for name, scores in checkpoint.scores.items():
            values = scores.get("block_influence")
            if scores.get("kind") == INFLUENCE and isinstance(values, list) and values:
                measured.setdefault(name, [float(value) for value in values])
    if measured:
        caption = "Block influence: how much a layer changes what passes through it"
        yield caption, lines(measured, "layer", "block influence")


def layers(checkpoints: Sequence[Checkpoint]) -> Iterator[tuple[str, ET.Element]]:
    """What is gone or zero of each layer, a picture for each pruned checkpoint."""
    for checkpoint in checkpoints:
        if gone := gone_of(checkpoint.manifest.pruning):
            label = f"{checkpoint.shown}: what is gone or zero, by matrix and layer"
            yield label, heat(gone, label)


def gone_of(pruned: Pruned | None) -> Gone:
    """What pruning took of each layer, by what its account says; empty where that says nothing."""
    match pruned:
        case Masked() if pruned.layers:
            names = dict.fromkeys(name for layer in pruned.layers for name in layer.matrices)
            return {name: [layer.matrices.get(name) for layer in pruned.layers] for name in names}
        case Uniform():
            return _of_uniform(pruned)
        case Padded():
            return _of_padded(pruned)
        case Foreign() if "padded" in pruned.facts:
            return gone_of(as_pruned(pruned.facts["padded"]))
    return {}


def _of_uniform(pruned: Uniform) -> Gone:
    before, after = pruned.before, pruned.after
    dropped = set(pruned.dropped_layers)
    count = after.layers + len(dropped)
    gone: Gone = {"layer": [1.0 if n in dropped else 0.0 for n in range(count)]} if dropped else {}
    if before is None:
        return gone
    for axis in ("hidden", *PADDED_AXES):
        share = 1 - getattr(after, axis) / getattr(before, axis)
        if share > 0:
            gone[axis] = [1.0 if n in dropped else share for n in range(count)]
    return gone


def _of_padded(pruned: Padded) -> Gone:
    """Layers that are gone altogether have no widths."""
    kept = pruned.kept.layers if pruned.kept else tuple(range(len(pruned.layers)))
    widths = dict(zip(kept, pruned.layers, strict=False))
    gone: Gone = {}
    for axis in PADDED_AXES:
        full = getattr(pruned.before, axis)
        gone[axis] = [
            1 - getattr(widths[n], axis) / full if n in widths else 1.0
            for n in range(pruned.before.layers)
        ]
    return gone
