"""LLM-Pruner as a stage: heads and neurons, channels, or the last layers go."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from espalier.contract.manifest import pruning_of
from espalier.contract.pruned import Padded, Pruned
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from espalier.figures import save
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.scores import model_name, write_scores
from espalier.pruning.structured.padded import write_padded
from espalier.pruning.structured.plots import draw_widths
from espalier.pruning.structured.record import uniform
from espalier.pruning.structured.restructure import Selection, restructure
from espalier.pruning.structured.units import true_units
from methods.llm_pruner.left import Left, pruned_layers
from methods.llm_pruner.plots import draw_channels, draw_importance
from methods.llm_pruner.scored import Scored
from methods.llm_pruner.selection import LayerImportance, largest, local, over_layers
from methods.llm_pruner.spec import LlmPrunerParameters


def run(context: StageContext, parameters: LlmPrunerParameters) -> Outcome:
    """Prune the input `model` by the input `scores`, or by a draw.

    Raises:
        InputError: the model, the scores or the parameters do not fit.
    """
    model = context.inputs["model"]
    shapes = Shapes.of(read_config(model))
    scored = None
    if "scores" in context.inputs:
        scored = Scored.read(context.inputs["scores"], model)
        write_scores(context.output, scored.about)
    if parameters.mode == "block":
        account = _prune_block(context, parameters, shapes, scored)
    else:
        account = _prune_uniform(context, parameters, shapes, scored)
    context.progress.say(str(account))
    return Outcome(pruning=account)


def _prune_block(
    context: StageContext, parameters: LlmPrunerParameters, shapes: Shapes, scored: Scored | None
) -> Pruned:
    """Heads and neurons of layers FIRST to LAST; shares count from when the model was whole."""
    model, origin = context.inputs["model"], _origin(context, parameters, shapes)
    there, layers = true_units(model), pruned_layers(parameters, shapes.layers)
    importance = (
        _drawn(parameters, shapes)
        if scored is None
        else scored.importance(_form(parameters), shapes, reference=parameters.reference)
    )
    if parameters.global_:
        kept = over_layers(importance, there, layers, origin, parameters.sparsity)
    else:
        kept = [
            local(importance[number], units, origin, parameters.sparsity)
            if number in layers
            else units
            for number, units in enumerate(there)
        ]
    if kept == there:
        raise InputError(
            f"SPARSITY={parameters.sparsity:g} removes nothing: of a padded model it counts from "
            "what the model was before it was padded; give more."
        )
    account = write_padded(model, context.output, kept, context.progress)
    about = _about(model, scored)
    form = _form(parameters)
    save(draw_importance(about, importance, kept, form), context.output / "importance")
    widths = draw_widths(about, kept, shapes.kv_heads, shapes.intermediate)
    save(widths, context.output / "widths")
    return account


def _prune_uniform(
    context: StageContext, parameters: LlmPrunerParameters, shapes: Shapes, scored: Scored | None
) -> Pruned:
    """Channels, or the last layers."""
    model, left = context.inputs["model"], Left.of(parameters, shapes)
    if isinstance(pruning_of(model), Padded):
        raise InputError(
            f"{model.name} has layers of different widths; MODE={parameters.mode} is for models "
            "whose layers are as wide as they are stored."
        )
    kept = Selection(range(left.layers))
    if parameters.mode == "channel":
        importance = torch.rand(shapes.hidden, generator=_generator(parameters))
        if scored is not None:
            importance = scored.channels(_form(parameters), reference=parameters.reference)
        channels = largest(importance, range(shapes.hidden), left.hidden)
        kept = Selection(range(shapes.layers), hidden=channels)
        picture = draw_channels(_about(model, scored), importance, left.hidden)
        save(picture, context.output / "channels")
    target = replace(shapes, hidden=left.hidden, layers=left.layers)
    restructure(model, context.output, kept, target, context.progress)
    return uniform(shapes, target, kept)


def _form(parameters: LlmPrunerParameters) -> str:
    return parameters.taylor if parameters.importance == "taylor" else parameters.importance


def _origin(context: StageContext, parameters: LlmPrunerParameters, shapes: Shapes) -> Shapes:
    """The sizes of which shares are taken: before the first step, or before layers were padded."""
    group = shapes.heads // shapes.kv_heads
    if parameters.whole_heads and parameters.whole_neurons:
        return replace(
            shapes, kv_heads=parameters.whole_heads, heads=group * parameters.whole_heads,
            intermediate=parameters.whole_neurons,
        )  # fmt: skip
    account = pruning_of(context.inputs["model"])
    return replace(shapes, **dict(account.before)) if isinstance(account, Padded) else shapes


def _drawn(parameters: LlmPrunerParameters, shapes: Shapes) -> list[LayerImportance]:
    """Uniform numbers, layer by layer."""
    generator = _generator(parameters)
    return [
        LayerImportance(
            torch.rand(shapes.kv_heads, generator=generator),
            torch.rand(shapes.intermediate, generator=generator),
        )
        for _ in range(shapes.layers)
    ]


def _generator(parameters: LlmPrunerParameters) -> torch.Generator:
    return torch.Generator().manual_seed(parameters.seed or 0)


def _about(model: Path, scored: Scored | None) -> Mapping[str, Any]:
    """What a picture says of the model and the tokens."""
    return {"model": model_name(model), "data": {}} if scored is None else scored.about
