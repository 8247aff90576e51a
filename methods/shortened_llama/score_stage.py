"""Scores of single blocks as a stage."""

from typing import Any

import torch
from torch import Tensor

from espalier.contract.stage import Outcome, StageContext
from espalier.data.calibration import Calibration, load_calibration
from espalier.errors import InputError
from espalier.figures import save
from espalier.models.decoder import Decoder
from espalier.pruning.depth.cuts import cuts_of
from espalier.pruning.depth.measure import measure
from espalier.pruning.depth.samples import Sample
from espalier.pruning.layers.backward import backward
from espalier.pruning.layers.walk import walk
from espalier.pruning.scores import about_data, model_name, shortened, write_scores
from methods.shortened_llama.algorithm import Magnitudes, Norm, Taylor, order_of_removal
from methods.shortened_llama.plots import draw_blocks
from methods.shortened_llama.spec import BlockScoreParameters


def run(context: StageContext, parameters: BlockScoreParameters) -> Outcome:
    """Score the blocks of the input `model`, by the input `calibration` where tokens are needed.

    Raises:
        InputError: the model or the tokens do not fit, or there are none and they are needed.
    """
    model, norm = context.inputs["model"], parameters.taken_norm
    windows = None if "calibration" in parameters.unused() else _windows(context, parameters)
    dtype = torch.float32 if parameters.importance == "taylor" else None
    decoder = Decoder(model, context.device, dtype=dtype)
    scores: dict[str, Any] = {
        "kind": "shortened-llama",
        "model": model_name(model),
        "layers": decoder.num_layers,
        "importance": parameters.importance,
        "norm": norm,
        "data": about_data(windows.record) if windows else {},
    }
    if windows and norm:
        ids = windows.input_ids
        scores |= _by_weight(taylor(context, decoder, ids, norm, parameters.batch))
    elif windows:
        scores |= perplexities(context, decoder, windows.input_ids, parameters.batch)
    elif norm:
        scores |= _by_weight(magnitudes(context, decoder, norm))
    scores["order"] = order_of_removal(scores["block_score"])
    write_scores(context.output, scores)
    save(draw_blocks(scores), context.output / "blocks")
    return Outcome(data=windows.record if windows else None, notes={"products": decoder.kernel})


def perplexities(
    context: StageContext, decoder: Decoder, input_ids: Tensor, batch: int | None
) -> dict[str, Any]:
    """Of the whole model, and without each block; None where it is not finite.

    Raises:
        InputError: the whole model's is not.
    """
    cuts, predicted = cuts_of(decoder.num_layers, [1]), input_ids.shape[1] - 1
    samples = [Sample(row, predicted) for row in input_ids]
    whole, without = measure(context, decoder, samples, cuts, batch)
    unpruned = whole.perplexity(predicted)
    if unpruned is None:
        raise InputError(
            "the model has no finite perplexity on these tokens; use bfloat16 or float32, or other "
            "tokens."
        )
    found = [without[cut].perplexity(predicted) for cut in cuts]
    return {
        "unpruned": shortened(unpruned),
        "block_score": [None if score is None else shortened(score) for score in found],
    }


def magnitudes(context: StageContext, decoder: Decoder, norm: Norm) -> list[dict[str, float]]:
    """Of each layer, each weight's sum of |w|^p."""
    records = walk(context, decoder, Magnitudes(norm), title="score")
    return [record["weights"] for record in records]


def taylor(
    context: StageContext, decoder: Decoder, input_ids: Tensor, norm: Norm, batch: int | None
) -> list[dict[str, float]]:
    """Of each layer, each weight's sum of |w x dL/dw|^p."""
    observer = Taylor(norm, len(input_ids))
    found = backward(context, decoder, input_ids, observer, batch=batch)
    return [{name: float(score) for name, score in layer.items()} for layer in found.layers]


def _by_weight(layers: list[dict[str, float]]) -> dict[str, Any]:
    """Scores of weights by name, and their sums over each block."""
    names = list(layers[0])
    return {
        "block_score": [shortened(sum(layer.values())) for layer in layers],
        "weight_score": {name: [shortened(layer[name]) for layer in layers] for name in names},
    }


def _windows(context: StageContext, parameters: BlockScoreParameters) -> Calibration:
    if "calibration" not in context.inputs:
        raise InputError(f"IMPORTANCE={parameters.importance} needs a text; give CALIBRATION.")
    return load_calibration(
        context.inputs["calibration"],
        context.inputs["model"],
        parameters.samples,
        parameters.seqlen,
        parameters.seed,
    )
