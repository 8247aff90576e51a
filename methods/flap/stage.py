"""FLAP as a stage: chooses by scores that were measured before, and writes what is left."""

from collections.abc import Sequence

from espalier.contract.stage import Outcome, StageContext
from espalier.figures import save
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.scores import read_scores, write_scores
from espalier.pruning.structured.padded import NOTHING, write_padded
from espalier.pruning.structured.plots import draw_unit_scores, draw_widths
from espalier.pruning.structured.units import LayerUnits, columns_of, places_among, true_units
from methods.flap.algorithm import Choice, Scores, metric_of, select, unit_scores
from methods.flap.biases import means_as_biases
from methods.flap.scored import KIND, SITES, Figures, read_figures
from methods.flap.spec import FlapParameters, check


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
    added = means_as_biases(model, figures, kept, shapes) if parameters.bias else NOTHING
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
