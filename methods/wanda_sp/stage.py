"""Wanda-sp as a stage: each layer is chosen from by what the layers before it, as pruned, give."""

from typing import Any

import torch
from torch import nn

from espalier.contract.stage import Outcome, StageContext
from espalier.data.calibration import load_calibration
from espalier.figures import save
from espalier.models.decoder import Decoder
from espalier.models.shapes import Shapes
from espalier.pruning.layers.taps import inputs_of, require_fed
from espalier.pruning.layers.walk import LayerStep, walk
from espalier.pruning.masked.statistics import SquaredNorms
from espalier.pruning.parameters import SHORT_WINDOW
from espalier.pruning.scores import about_data, model_name, shortened, write_scores
from espalier.pruning.structured.plots import draw_unit_scores, draw_widths
from espalier.pruning.structured.target import same_share
from espalier.pruning.structured.units import ATTENTION, MLP, LayerUnits, queries_of
from methods.wanda_sp.algorithm import LayerScores, column_scores
from methods.wanda_sp.spec import WandaSpParameters


write_units_kept: Any = None


def run(context: StageContext, parameters: WandaSpParameters) -> Outcome:
    """Prune the input `model` with the tokens of the input `calibration`.

    Raises:
        InputError: the model, the tokens or the share do not fit.
    """
    model, given = context.inputs["model"], context.inputs["calibration"]
    samples, seqlen, seed = parameters.samples, parameters.seqlen, parameters.seed
    calibration = load_calibration(given, model, samples, seqlen, seed, window=SHORT_WINDOW)
    decoder = Decoder(model, context.device)
    shapes = decoder.architecture.shapes
    visitor = _Choosing(shapes, parameters.sparsity, context.device)
    ids, batch = calibration.input_ids, parameters.batch
    records = walk(context, decoder, visitor, title="choose", input_ids=ids, batch=batch)
    kept = [LayerUnits(tuple(r["kv_heads"]), tuple(r["neurons"])) for r in records]
    pruned = write_units_kept(model, context.output, kept, context.progress)
    scores = {
        "kind": "wanda-sp",
        "model": model_name(model),
        "layers": shapes.layers,
        "heads": [record["head_scores"] for record in records],
        "neurons": [record["neuron_scores"] for record in records],
        "data": about_data(calibration.record),
    }
    write_scores(context.output, scores)
    save(draw_widths(scores, kept, shapes.kv_heads, shapes.intermediate), context.output / "widths")
    picture = draw_unit_scores(
        scores, scores["heads"], scores["neurons"], kept, "Wanda's score", logarithmic=True
    )
    save(picture, context.output / "unit_scores")
    return Outcome(pruning=pruned, data=calibration.record, notes={"products": decoder.kernel})


class _Choosing:
    """Chooses a layer's units, and silences the others, so that the next layer sees it pruned."""

    def __init__(self, shapes: Shapes, sparsity: float, device: str) -> None:
        self._shapes, self._device = shapes, device
        self._counts = same_share(shapes, sparsity)

    def visit(self, step: LayerStep) -> dict[str, Any]:
        """Observe the dense layer, choose, and zero the columns of what goes."""
        parts = {name: step.module.get_submodule(name) for name in (ATTENTION, MLP)}
        norms = {name: SquaredNorms(p.in_features, self._device) for name, p in parts.items()}
        step.observe([inputs_of(name, found.add) for name, found in norms.items()])
        columns = {}
        for name, part in parts.items():
            require_fed(norms[name].samples, f"the inputs of {name}")
            columns[name] = column_scores(part.weight.data, norms[name].mean)
        scores = LayerScores.of(columns[ATTENTION], columns[MLP], self._shapes)
        kept = scores.without(*self._counts)
        silence(step.module, kept, self._shapes)
        return {
            "layer": step.number,
            "kv_heads": list(kept.kv_heads),
            "neurons": list(kept.neurons),
            "head_scores": shortened(scores.heads.tolist()),
            "neuron_scores": shortened(scores.neurons.tolist()),
        }


def silence(module: nn.Module, kept: LayerUnits, shapes: Shapes) -> None:
    """Zero in place the columns of o_proj and down_proj that read removed units.

    The layer is then the same function as one without them.
    """
    heads = torch.zeros(shapes.heads, dtype=torch.bool)
    heads[list(queries_of(kept.kv_heads, shapes))] = True
    neurons = torch.zeros(shapes.intermediate, dtype=torch.bool)
    neurons[list(kept.neurons)] = True
    columns = {ATTENTION: heads.repeat_interleave(shapes.head_dim), MLP: neurons}
    for name, stays in columns.items():
        weight = module.get_submodule(name).weight.data
        weight[:, ~stays.to(weight.device)] = 0
