"""SLEB as a stage."""

from collections.abc import Mapping
from typing import Any

from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from espalier.figures import save
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.scores import read_scores, write_scores
from espalier.pruning.structured.parameters import LayersLeft
from espalier.pruning.structured.record import uniform
from espalier.pruning.structured.restructure import Selection, restructure
from methods.sleb.plots import draw_removal


def run(context: StageContext, parameters: LayersLeft) -> Outcome:
    """Remove the first layers in the order of the input `scores` from the input `model`.

    Raises:
        InputError: the model, the scores or the number of layers does not fit.
    """
    model = context.inputs["model"]
    parent = Shapes.of(read_config(model))
    target = parameters.target(parent)
    scores = read_scores(context.inputs["scores"], "sleb", model)
    order = first_removed(scores, parent.layers - target.layers)
    kept = Selection([layer for layer in range(parent.layers) if layer not in order])
    restructure(model, context.output, kept, target, context.progress)
    context.progress.say(f"removed layers {', '.join(map(str, order))}, in this order")
    write_scores(context.output, scores | {"dropped": sorted(order)})
    save(draw_removal(scores, len(order)), context.output / "removal")
    return Outcome(pruning=uniform(parent, target, kept, removal_order=order))


def first_removed(scores: Mapping[str, Any], count: int) -> list[int]:
    """The first `count` layers to go: each removal is the one before it and one more.

    Raises:
        InputError: fewer were searched.
    """
    order = [int(layer) for layer in scores["order"]]
    if count > len(order):
        raise InputError(
            f"the scores hold the order of {len(order)} removals and {count} layers are to go; "
            "leave SCORES out to search on."
        )
    return order[:count]
