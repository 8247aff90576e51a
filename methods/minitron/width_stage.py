"""Width importance as a stage."""

from typing import Any

import torch

from espalier.figures import save
from espalier.gates import check_parent
from espalier.scoring.decoder import Decoder
from espalier.scoring.one_pass import one_pass
from espalier.scoring.scores import about_data, model_name, shortened, write_scores
from espalier.scoring.windows import leading_windows
from espalier.stage import Outcome, StageContext
from methods.minitron.importance import HEADS, HIDDEN, INTERMEDIATE, WidthImportance, root
from methods.minitron.plots import draw_importance
from methods.minitron.spec import WidthScoreParameters


def run(context: StageContext, parameters: WidthScoreParameters) -> Outcome:
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
    shapes = decoder.architecture.shapes
    over_samples, over_tokens = parameters.aggregate_batch, parameters.aggregate_sequence
    sizes = {HIDDEN: shapes.hidden, INTERMEDIATE: shapes.intermediate, HEADS: shapes.heads}
    observer = WidthImportance(sizes, shapes.head_dim, over_samples, over_tokens)
    records = one_pass(context, decoder, windows.input_ids, parameters.batch, observer)

    def importance(values: Any) -> list[float]:
        found = root(torch.as_tensor(values, dtype=torch.float64), over_samples)
        return list(shortened(found.tolist()))

    channels = torch.tensor([record[HIDDEN] for record in records], dtype=torch.float64)  # [L, H]
    scores = {
        "kind": "width",
        "model": model_name(model),
        "layers": decoder.num_layers,
        "aggregation": {"batch": over_samples, "sequence": over_tokens},
        HIDDEN: importance(channels.sum(dim=0)),
        INTERMEDIATE: [importance(record[INTERMEDIATE]) for record in records],
        HEADS: [importance(record[HEADS]) for record in records],
        "kv_heads": shapes.kv_heads,
        "data": about_data(windows.record),
    }
    write_scores(context.output, scores)
    save(draw_importance(scores), context.output / "importance")
    return Outcome(data=windows.record, notes={"products": decoder.kernel})
