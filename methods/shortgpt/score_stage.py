"""Block influence as a stage."""

from espalier.contract.stage import Outcome, StageContext
from espalier.figures import save
from espalier.pruning.layers.text_pass import pass_over_text
from espalier.pruning.parameters import ScoreParameters
from espalier.pruning.scores import about_data, shortened, write_scores
from methods.shortgpt.algorithm import BlockInfluence
from methods.shortgpt.plots import draw_block_influence


def run(context: StageContext, parameters: ScoreParameters) -> Outcome:
    """Measure the input `model` on the tokens of the input `calibration`.

    Raises:
        InputError: the model or the tokens do not fit.
    """
    passed = pass_over_text(context, parameters, lambda shapes: BlockInfluence())
    scores = {
        "kind": "block-influence",
        "model": passed.model,
        "layers": len(passed.layers),
        "block_influence": shortened([layer["block_influence"] for layer in passed.layers]),
        "data": about_data(passed.tokens),
    }
    write_scores(context.output, scores)
    save(draw_block_influence(scores), context.output / "block_influence")
    return passed.outcome
