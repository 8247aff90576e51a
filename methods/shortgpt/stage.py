"""ShortGPT as a stage."""

from espalier.contract.stage import Outcome, StageContext
from espalier.figures import save
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.scores import read_scores, write_scores
from espalier.pruning.structured.parameters import LayersLeft
from espalier.pruning.structured.record import uniform
from espalier.pruning.structured.restructure import Selection, restructure
from methods.shortgpt.algorithm import least_influential
from methods.shortgpt.plots import draw_block_influence


def run(context: StageContext, parameters: LayersLeft) -> Outcome:
    """Remove layers of the input `model` by the input `scores`.

    Raises:
        InputError: the model, the scores or the number of layers does not fit.
    """
    model = context.inputs["model"]
    parent = Shapes.of(read_config(model))
    target = parameters.target(parent)
    scores = read_scores(context.inputs["scores"], "block-influence", model)
    dropped = least_influential(scores["block_influence"], parent.layers - target.layers)
    kept = Selection([layer for layer in range(parent.layers) if layer not in dropped])
    restructure(model, context.output, kept, target, context.progress)
    context.progress.say(f"removed layers {', '.join(map(str, sorted(dropped)))}")
    write_scores(context.output, scores | {"dropped": sorted(dropped)})
    save(draw_block_influence(scores, dropped), context.output / "block_influence")
    return Outcome(pruning=uniform(parent, target, kept, removal_order=dropped))
