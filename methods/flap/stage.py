"""FLAP as a stage: chooses by scores that were measured before, and writes what is left."""

from espalier.contract.stage import Outcome, StageContext
from espalier.figures import save
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.scores import read_scores, write_scores
from espalier.pruning.structured.plots import draw_unit_scores, draw_widths
from methods.flap.algorithm import Choice, Scores, metric_of, select, unit_scores
from methods.flap.scored import KIND, SITES, read_figures
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
    figures = read_figures(given, shapes)
    features = (
        metric_of(figures[site], parameters.metric, parameters.fluctuation) for site in SITES
    )
    found = unit_scores(Scores(*features), parameters.structure, shapes)
    kept = select(found, shapes, choice_of(parameters))
    return Outcome()


def choice_of(parameters: FlapParameters) -> Choice:
    """What is asked of the algorithm."""
    return Choice(
        parameters.structure, parameters.sparsity, parameters.remove_heads, parameters.reference
    )
