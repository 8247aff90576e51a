"""Block influence as a stage."""

from espalier.figures import save
from espalier.gates import check_parent
from espalier.scoring.decoder import Decoder
from espalier.scoring.one_pass import one_pass
from espalier.scoring.parameters import ScoreParameters
from espalier.scoring.scores import about_data, model_name, shortened, write_scores
from espalier.scoring.windows import leading_windows
from espalier.stage import Outcome, StageContext
from methods.shortgpt.algorithm import BlockInfluence
from methods.shortgpt.plots import draw_block_influence


def run(context: StageContext, parameters: ScoreParameters) -> Outcome:
    """Measure the input `model` on the tokens of the input `calibration`.

    Raises:
        InputError: the model or the tokens do not fit.
    """
    model = context.inputs["model"]
    check_parent(model)
    windows = leading_windows(
        context.inputs["calibration"], model, parameters.samples, parameters.seqlen
    )
    decoder = Decoder(model, context.device)
    records = one_pass(context, decoder, windows.input_ids, parameters.batch, BlockInfluence())
    scores = {
        "kind": "block-influence",
        "model": model_name(model),
        "layers": decoder.num_layers,
        "block_influence": shortened([record["block_influence"] for record in records]),
        "data": about_data(windows.record),
    }
    write_scores(context.output, scores)
    save(draw_block_influence(scores), context.output / "block_influence")
    return Outcome(data=windows.record, notes={"products": decoder.kernel})
