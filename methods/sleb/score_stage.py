"""SLEB's search as a stage."""

from functools import partial
from typing import Any

from espalier.contract.stage import Outcome, StageContext
from espalier.data.windows import leading_windows
from espalier.figures import save
from espalier.models.decoder import Decoder
from espalier.pruning.depth.greedy import Removal, remove_one_by_one
from espalier.pruning.depth.samples import Sample
from espalier.pruning.scores import about_data, model_name, shortened, write_scores
from methods.sleb.algorithm import mean_loss, order_of_the_reference
from methods.sleb.plots import draw_removal
from methods.sleb.spec import SlebScoreParameters


def run(context: StageContext, parameters: SlebScoreParameters) -> Outcome:
    """Search the input `model` on the tokens of the input `calibration`.

    Raises:
        InputError: the model, the tokens, the number of layers or the barriers do not fit.
    """
    model = context.inputs["model"]
    decoder = Decoder(model, context.device)
    layers = decoder.num_layers
    candidates, count = parameters.candidates(layers), parameters.removals(layers)
    windows = leading_windows(
        context.inputs["calibration"], model, parameters.samples, parameters.seqlen
    )
    tokens = windows.input_ids.shape[1]
    removal = remove_one_by_one(
        context,
        decoder,
        [Sample(row, tokens - 1) for row in windows.input_ids],
        candidates=candidates,
        count=min(count, len(candidates)),
        loss=partial(mean_loss, tokens=tokens),
        batch=parameters.batch,
    )
    order = order_of_the_reference(removal.order, layers, count)
    scores = {
        "kind": "sleb",
        "model": model_name(model),
        "layers": layers,
        "barriers": [parameters.early_barrier, parameters.latter_barrier],
        "unpruned": shortened(removal.unpruned),
        "order": order,
        "rounds": _rounds(removal),
        "data": about_data(windows.record),
    }
    write_scores(context.output, scores)
    save(draw_removal(scores), context.output / "removal")
    context.progress.say(f"order of removal: {', '.join(map(str, order))}")
    runs = {"layer_runs": removal.layer_runs, "plain_layer_runs": removal.plain_runs}
    return Outcome(data=windows.record, notes={"products": decoder.kernel, **runs})


def _rounds(removal: Removal) -> list[dict[str, Any]]:
    """Of each round the layer removed and the losses, of those tried, without it."""
    return [
        {
            "removed": past.removed,
            "losses": {
                str(layer): None if loss is None else shortened(loss)
                for layer, loss in past.losses.items()
            },
        }
        for past in removal.rounds
    ]
