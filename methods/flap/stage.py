"""FLAP as a stage: chooses by scores that were measured before, and writes what is left."""

from collections.abc import Sequence
from pathlib import Path

import torch

from espalier.contract.stage import Outcome, StageContext
from espalier.figures import save
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.scores import read_scores, write_scores
from espalier.pruning.structured.padded import (
    NOTHING,
    Addition,
    LayerUnits,
    true_units,
    write_padded,
)
from espalier.pruning.structured.plots import draw_unit_scores, draw_widths
from espalier.pruning.structured.units import columns_of, places_among
from methods.flap.algorithm import Choice, Scores, compensation, metric_of, select, unit_scores
from methods.flap.scored import KIND, SITES, Figures, read_figures
from methods.flap.spec import BIASES, FlapParameters, check
from methods.flap.statistics import MEAN


def run(context: StageContext, parameters: FlapParameters) -> Outcome:
    """Prune the input `model` by the input `scores`.

    Raises:
        InputError: the model, the scores or what is asked for do not fit.
    """
    model, given = context.inputs["model"], context.inputs["scores"]
    config = read_config(model)
    check(parameters, config)
    shapes, scores = Shapes.of(config), read_scores(given, KIND, model)
    figures, there = read_figures(given, shapes), true_units(model)
    units = unit_scores(_features(figures, there, shapes, parameters), parameters.structure, shapes)
    chosen = select(units, shapes, _choice(parameters))
    kept = places_among(there, chosen)
    added = _means_as_biases(model, figures, kept, shapes) if parameters.bias else NOTHING
    pruned = write_padded(model, context.output, kept, context.progress, added)
    context.progress.say(str(pruned))
    about = {**scores, "metric": parameters.metric, "structure": parameters.structure}
    write_scores(context.output, about)
    widths = draw_widths(about, kept, shapes.kv_heads, shapes.intermediate)
    save(widths, context.output / "widths")
    standardized = parameters.structure.startswith("al")
    label = f"{parameters.metric.upper()}{', z-score' if standardized else ''}"
    picture = draw_unit_scores(
        about, units.attention, units.mlp, chosen, label, logarithmic=not standardized
    )
    save(picture, context.output / "unit_scores")
    return Outcome(pruning=pruned)


def _choice(parameters: FlapParameters) -> Choice:
    return Choice(
        parameters.structure, parameters.sparsity, parameters.remove_heads, parameters.reference
    )


def _features(
    figures: Figures, there: Sequence[LayerUnits], shapes: Shapes, parameters: FlapParameters
) -> Scores:
    """The metric of every feature that is no padding."""
    metrics = {
        site: metric_of(figures[site], parameters.metric, parameters.fluctuation) for site in SITES
    }
    columns = [columns_of(units, shapes) for units in there]
    return Scores(
        *(
            [metrics[site][layer, own[part]] for layer, own in enumerate(columns)]
            for site, part in SITES.items()
        )
    )


def _means_as_biases(
    model: Path, figures: Figures, kept: Sequence[LayerUnits], shapes: Shapes
) -> Addition:
    """What is removed of each layer gave this on average; a bias that is there already takes it up.

    A matrix in memory at a time.
    """
    reader, tensors = CheckpointReader(model), {}
    with torch.inference_mode():
        for layer, units in enumerate(kept):
            columns = columns_of(units, shapes)
            for site, part in SITES.items():
                name = f"model.layers.{layer}.{part}"
                weight = reader.read(f"{name}.weight")
                bias = compensation(weight, figures[site][MEAN][layer], columns[part])
                if f"{name}.bias" in reader:
                    bias += reader.read(f"{name}.bias").float()
                tensors[f"{name}.bias"] = bias.to(weight.dtype)
    return Addition(tensors, BIASES)
