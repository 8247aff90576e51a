"""Minitron as a stage: depth, width or both, by scores that were measured before."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from espalier.figures import save
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.depth.depth_search import choose_block, order_of_removal
from espalier.pruning.scores import read_scores, write_scores
from espalier.pruning.structured.parameters import ShapeParameters
from espalier.pruning.structured.record import uniform
from espalier.pruning.structured.restructure import Selection, restructure
from methods.minitron.importance import (
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    most_important,
    most_important_heads,
)
from methods.minitron.plots import draw_depth, draw_importance
from methods.minitron.spec import DepthChoice


def run(context: StageContext, parameters: ShapeParameters) -> Outcome:
    """Cut the input `model` by the inputs `depth_scores` and `width_scores`.

    Raises:
        InputError: the model, the scores or the sizes do not fit.
    """
    model = context.inputs["model"]
    parent = Shapes.of(read_config(model))
    target = parameters.target(parent)
    dropped: list[int] = []
    depth, width = _scores(context, "depth"), _scores(context, "width")
    if target.layers < parent.layers:
        assert isinstance(parameters, DepthChoice)  # noqa: S101
        dropped = dropped_layers(_needed(depth, "depth"), parent.layers - target.layers, parameters)
        context.progress.say(f"removed layers {', '.join(map(str, sorted(dropped)))}")
    layers = [layer for layer in range(parent.layers) if layer not in dropped]
    kept = Selection(layers)
    if replace(target, layers=parent.layers) != parent:
        kept = kept_widths(_needed(width, "width"), layers, parent, target)
    restructure(model, context.output, kept, target, context.progress)
    _draw(context, depth, width, dropped, kept)
    return Outcome(pruning=uniform(parent, target, kept))


def dropped_layers(scores: Mapping[str, Any], count: int, parameters: DepthChoice) -> list[int]:
    """The layers to remove: one block, or those that each cost least alone.

    Raises:
        InputError: blocks of this size were not scored.
    """
    size = count if parameters.contiguous else 1
    found = scores["by_first_removed"].get(str(size))
    if found is None:
        scored = ", ".join(scores["by_first_removed"])
        raise InputError(
            f"the scores are for blocks of {scored} layers and {size} are to go; leave SCORES out "
            f"to measure them."
        )
    costs = [math.inf if score is None else float(score) for score in found]
    better, best = bool(scores["lower_is_better"]), parameters.choice == "best"
    if parameters.contiguous:
        first = choose_block(costs, float(scores["unpruned"]), better, best)
        return list(range(first, first + count))
    return order_of_removal(costs, float(scores["unpruned"]), better, best)[:count]


def kept_widths(
    scores: Mapping[str, Any], layers: Sequence[int], parent: Shapes, target: Shapes
) -> Selection:
    """What is kept of each width that shrinks, the most important first."""
    hidden = None
    if target.hidden < parent.hidden:
        hidden = most_important(torch.tensor(scores[HIDDEN]), target.hidden)
    neurons: dict[int, list[int]] = {}
    if target.intermediate < parent.intermediate:
        neurons = {
            layer: most_important(torch.tensor(scores[INTERMEDIATE][layer]), target.intermediate)
            for layer in layers
        }
    heads: dict[int, list[int]] = {}
    groups: dict[int, list[int]] = {}
    if target.heads < parent.heads:
        for layer in layers:
            importance = torch.tensor(scores[HEADS][layer])
            heads[layer], groups[layer] = most_important_heads(
                importance, target.heads, target.kv_heads, parent.kv_heads
            )
    return Selection(layers, hidden, neurons, heads, groups)


def _scores(context: StageContext, kind: str) -> dict[str, Any] | None:
    directory = context.inputs.get(f"{kind}_scores")
    return read_scores(directory, kind, context.inputs["model"]) if directory else None


def _needed(scores: dict[str, Any] | None, kind: str) -> dict[str, Any]:
    if scores is None:
        raise InputError(f"{kind} is to be cut and no {kind} scores were given; leave SCORES out.")
    return scores


def _draw(
    context: StageContext,
    depth: Mapping[str, Any] | None,
    width: Mapping[str, Any] | None,
    dropped: Sequence[int],
    kept: Selection,
) -> None:
    """The scores again, with what was made of them, and their pictures."""
    written: dict[str, Any] = {}
    if depth and dropped:
        written["depth"] = {**depth, "dropped": sorted(dropped)}
        contiguous = max(dropped) - min(dropped) == len(dropped) - 1
        size = len(dropped) if contiguous else 1
        save(draw_depth(depth, (size, sorted(dropped))), context.output / "depth")
    if width:
        sizes = {HIDDEN: kept.hidden and len(kept.hidden)}
        for name, by_layer in ((INTERMEDIATE, kept.intermediate), (HEADS, kept.heads)):
            sizes[name] = next((len(chosen) for chosen in by_layer.values()), None)
        cut = {name: size for name, size in sizes.items() if size}
        written["width"] = {**width, "kept": cut}
        save(draw_importance(width, cut), context.output / "importance")
    write_scores(context.output, written)
