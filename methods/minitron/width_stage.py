"""Width importance as a stage."""

from typing import Any

import torch

from espalier.contract.stage import Outcome, StageContext
from espalier.figures import save
from espalier.models.shapes import Shapes
from espalier.pruning.layers.text_pass import pass_over_text
from espalier.pruning.scores import about_data, shortened, write_scores
from methods.minitron.importance import HEADS, HIDDEN, INTERMEDIATE, WidthImportance, root
from methods.minitron.plots import draw_importance
from methods.minitron.spec import WidthScoreParameters


def run(context: StageContext, parameters: WidthScoreParameters) -> Outcome:
    """Measure the input `model` on the tokens of the input `calibration`.

    Raises:
        InputError: the model or the tokens do not fit.
    """
    over_samples, over_tokens = parameters.aggregate_batch, parameters.aggregate_sequence

    def observer(shapes: Shapes) -> WidthImportance:
        sizes = {HIDDEN: shapes.hidden, INTERMEDIATE: shapes.intermediate, HEADS: shapes.heads}
        return WidthImportance(sizes, shapes.head_dim, over_samples, over_tokens)

    passed = pass_over_text(context, parameters, observer)

    def importance(values: Any) -> list[float]:
        found = root(torch.as_tensor(values, dtype=torch.float64), over_samples)
        return list(shortened(found.tolist()))

    by_layer = [layer[HIDDEN] for layer in passed.layers]
    channels = torch.tensor(by_layer, dtype=torch.float64)  # [L, H]
    scores = {
        "kind": "width",
        "model": passed.model,
        "layers": len(passed.layers),
        "aggregation": {"batch": over_samples, "sequence": over_tokens},
        HIDDEN: importance(channels.sum(dim=0)),
        INTERMEDIATE: [importance(record[INTERMEDIATE]) for record in passed.layers],
        HEADS: [importance(record[HEADS]) for record in passed.layers],
        "kv_heads": passed.shapes.kv_heads,
        "data": about_data(passed.tokens),
    }
    write_scores(context.output, scores)
    save(draw_importance(scores), context.output / "importance")
    return passed.outcome
