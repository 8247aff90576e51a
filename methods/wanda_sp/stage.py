"""Wanda-sp as a stage: each layer is chosen from by what the layers before it, as pruned, give."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from espalier.contract.stage import Outcome, StageContext
from espalier.data.calibration import load_calibration
from espalier.figures import save
from espalier.models.decoder import Decoder
from espalier.models.shapes import Shapes
from espalier.pruning.layers.taps import inputs_of
from espalier.pruning.layers.walk import LayerStep, walk
from espalier.pruning.masked.statistics import SquaredNorms
from espalier.pruning.parameters import SHORT_WINDOW
from espalier.pruning.scores import about_data, model_name, shortened, write_scores
from espalier.pruning.structured.padded import write_padded
from espalier.pruning.structured.plots import draw_unit_scores, draw_widths
from espalier.pruning.structured.target import same_share
from espalier.pruning.structured.units import (
    ATTENTION,
    MLP,
    LayerUnits,
    columns_of,
    places_among,
    true_units,
)
from methods.wanda_sp.algorithm import LayerScores, column_scores
from methods.wanda_sp.spec import WandaSpParameters


def run(context: StageContext, parameters: WandaSpParameters) -> Outcome:
    """Prune the input `model` with the tokens of the input `calibration`.

    Raises:
        InputError: the model, the tokens or the share do not fit.
    """
    model, given = context.inputs["model"], context.inputs["calibration"]
    samples, seqlen, seed = parameters.samples, parameters.seqlen, parameters.seed
    calibration = load_calibration(given, model, samples, seqlen, seed, window=SHORT_WINDOW)
    decoder = Decoder(model, context.device)
    shapes, there = decoder.architecture.shapes, true_units(model)
    visitor = _Choosing(shapes, there, parameters.sparsity, context.device)
    ids, batch = calibration.input_ids, parameters.batch
    records = walk(context, decoder, visitor, title="choose", input_ids=ids, batch=batch)
    chosen = [LayerUnits(tuple(r["kv_heads"]), tuple(r["neurons"])) for r in records]
    kept = places_among(there, chosen)
    pruned = write_padded(model, context.output, kept, context.progress)
    context.progress.say(str(pruned))
    scores: dict[str, Any] = {
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
        scores, scores["heads"], scores["neurons"], chosen, "Wanda's score", logarithmic=True
    )
    save(picture, context.output / "unit_scores")
    return Outcome(pruning=pruned, data=calibration.record, notes={"products": decoder.kernel})


class _Choosing:
    """Chooses a layer's units, and silences the others, so that the next layer sees it pruned."""

    def __init__(
        self, shapes: Shapes, there: Sequence[LayerUnits], sparsity: float, device: str
    ) -> None:
        """`there`: of each layer the units that are no padding."""
        self._shapes, self._there, self._device = shapes, there, device
        self._counts = [same_share(len(u.kv_heads), len(u.neurons), sparsity) for u in there]

    def visit(self, step: LayerStep) -> dict[str, Any]:
        """Observe the dense layer, choose, and zero the columns of what goes."""
        shapes, there = self._shapes, self._there[step.number]
        parts = {name: step.module.get_submodule(name) for name in (ATTENTION, MLP)}
        norms = {name: SquaredNorms(p.in_features, self._device) for name, p in parts.items()}
        step.observe([inputs_of(name, found.add) for name, found in norms.items()])
        columns = columns_of(there, shapes)
        found = {
            name: column_scores(part.weight.data, norms[name].mean).cpu()[columns[name]]
            for name, part in parts.items()
        }
        scores = LayerScores.of(found[ATTENTION], found[MLP], shapes)
        chosen = scores.without(*self._counts[step.number])
        silence(step.module, places_among([there], [chosen])[0], shapes)
        return {
            "layer": step.number,
            "kv_heads": list(chosen.kv_heads),
            "neurons": list(chosen.neurons),
            "head_scores": shortened(scores.heads.tolist()),
            "neuron_scores": shortened(scores.neurons.tolist()),
        }


def silence(module: nn.Module, kept: LayerUnits, shapes: Shapes) -> None:
    """Zero in place the columns of o_proj and down_proj that read units which are not kept.

    The layer is then the same function as one without them.
    """
    for name, columns in columns_of(kept, shapes).items():
        weight = module.get_submodule(name).weight.data
        removed = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
        removed[columns.to(weight.device)] = False
        weight[:, removed] = 0
