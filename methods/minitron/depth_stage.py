"""Depth scores as a stage: perplexity or a task's accuracy without each block of layers."""

import math
from collections.abc import Callable
from typing import Any

import torch

from espalier.contract.stage import Outcome, StageContext
from espalier.data.token_ids import ModelLimits
from espalier.data.windows import leading_windows
from espalier.errors import InputError
from espalier.figures import save
from espalier.models.decoder import Decoder
from espalier.models.tokenizer import load_tokenizer
from espalier.pruning.depth.cuts import cuts_of, layer_runs
from espalier.pruning.depth.measure import measure
from espalier.pruning.depth.samples import Answers, Sample
from espalier.pruning.scores import about_data, model_name, shortened, write_scores
from methods.minitron.plots import draw_depth
from methods.minitron.spec import PERPLEXITY, DepthScoreParameters

Score = Callable[[Answers], float | None]


def run(context: StageContext, parameters: DepthScoreParameters) -> Outcome:
    """Score the input `model` on the text `calibration` or the rows in `tasks`.

    Raises:
        InputError: the model, the text, the task or the number of layers does not fit.
    """
    model = context.inputs["model"]
    decoder = Decoder(model, context.device)
    blocks = parameters.blocks(decoder.num_layers)
    perplexing = parameters.score == PERPLEXITY
    samples, score, record = (_text if perplexing else _task)(context, parameters)
    cuts = cuts_of(decoder.num_layers, blocks)
    whole, without = measure(context, decoder, samples, cuts, parameters.batch)
    unpruned = score(whole)
    if unpruned is None:
        raise InputError(
            f"{model_name(model)} gives no finite {parameters.score} on these tokens; use "
            "bfloat16 or float32, or other tokens."
        )
    scores: dict[str, Any] = {
        "kind": "depth",
        "model": model_name(model),
        "layers": decoder.num_layers,
        "score": parameters.score,
        "lower_is_better": perplexing,
        "unpruned": shortened(unpruned),
        "by_first_removed": {
            str(block): [_short(score(without[cut])) for cut in cuts if cut.count == block]
            for block in blocks
        },
        "data": about_data(record),
    }
    write_scores(context.output, scores)
    save(draw_depth(scores), context.output / "depth")
    context.progress.say(f"{parameters.score} of the whole model: {unpruned:.4f}")
    made = {
        "tokens_read": sum(len(sample.tokens) - 1 for sample in samples),
        "tokens_scored": sum(sample.scored for sample in samples),
        "layer_runs": layer_runs(decoder.num_layers, cuts),
        "head_runs": len(cuts) + 1,
    }
    return Outcome(data=record, notes={"products": decoder.kernel, **made})


def _short(score: float | None) -> float | None:
    return None if score is None else float(shortened(score))


def _text(
    context: StageContext, parameters: DepthScoreParameters
) -> tuple[list[Sample], Score, dict[str, Any]]:
    if "calibration" not in context.inputs:
        raise InputError("SCORE=ppl needs a text; give CALIBRATION.")
    windows = leading_windows(
        context.inputs["calibration"],
        context.inputs["model"],
        parameters.windows,
        parameters.seqlen,
    )
    predicted = windows.input_ids.shape[1] - 1
    samples = [Sample(row, predicted) for row in windows.input_ids]
    return samples, lambda answers: answers.perplexity(predicted), windows.record


def _task(
    context: StageContext, parameters: DepthScoreParameters
) -> tuple[list[Sample], Score, dict[str, Any]]:
    from methods.minitron.harness import TaskScore  # lm-eval takes seconds to import

    model = context.inputs["model"]
    limits = ModelLimits.of(model)
    task = TaskScore(
        parameters.score,
        context.inputs.get("tasks"),
        load_tokenizer(model),
        limits.window(parameters.seqlen or limits.positions),
        context.scratch / "rows",
        shots=parameters.shots,
        limit=parameters.samples,
    )
    samples = [
        Sample(torch.tensor(request.tokens), request.continuation) for request in task.requests
    ]

    def accuracy(answers: Answers) -> float | None:
        if any(map(math.isnan, answers.log_likelihoods)):
            return None  # which answer is the likelier is then no question
        return task.accuracy(answers.log_likelihoods, answers.greedy)

    return samples, accuracy, task.record
