"""Importance as a stage: gradients a layer at a time, or weights alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from espalier.contract.stage import Outcome, StageContext
from espalier.data.calibration import load_calibration
from espalier.figures import save
from espalier.models.adapter import Architecture
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.decoder import Decoder
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.layers.backward import backward
from espalier.pruning.scores import about_data, model_name, shortened
from espalier.pruning.structured.units import true_units
from methods.llm_pruner.coupled import Member, coupled
from methods.llm_pruner.importance import (
    HALVES,
    MAGNITUDES,
    TAYLORS,
    OuterSalience,
    Salience,
    magnitudes,
    magnitudes_of,
    rank_correlation,
)
from methods.llm_pruner.plots import draw_importance
from methods.llm_pruner.scored import KIND, Scored
from methods.llm_pruner.spec import ScoreLlmPrunerParameters

AGREEING = 0.8
"""A rank correlation of two halves below which the choice of samples decides much."""


def run(context: StageContext, parameters: ScoreLlmPrunerParameters) -> Outcome:
    """Measure the input `model`, on the tokens of the input `calibration` where gradients are.

    Raises:
        InputError: the model or the tokens do not fit.
    """
    model = context.inputs["model"]
    config = read_config(model)
    shapes, units = Shapes.of(config), coupled(config)
    members = [member for group in units.values() for member in group]
    about: dict[str, Any] = {
        "kind": KIND, "model": model_name(model), "layers": shapes.layers,
        "importance": parameters.importance, "tied": shapes.tied,
        "kv_heads": shapes.kv_heads,
        "coupled": {unit: [member.name for member in group] for unit, group in units.items()},
    }  # fmt: skip
    if parameters.importance == "magnitude":
        scored, outcome = _by_weights(context, model, members, about), Outcome()
    else:
        scored, outcome = _by_gradients(context, parameters, members, about, shapes)
    scored.write(context.output)
    form = MAGNITUDES[0] if parameters.importance == "magnitude" else TAYLORS[0]
    importance = scored.importance(form, shapes, reference=False)
    picture = draw_importance(scored.about, importance, true_units(model), form)
    save(picture, context.output / "importance")
    return outcome


def _by_gradients(
    context: StageContext,
    parameters: ScoreLlmPrunerParameters,
    members: Sequence[Member],
    about: Mapping[str, Any],
    shapes: Shapes,
) -> tuple[Scored, Outcome]:
    """In float32 whatever the weights are stored in: squares of gradients vanish in 16 bits."""
    model, text = context.inputs["model"], context.inputs["calibration"]
    drawn = load_calibration(text, model, parameters.samples, parameters.seqlen, parameters.seed)
    decoder = Decoder(model, context.device, dtype=torch.float32)
    samples, ids = len(drawn.input_ids), drawn.input_ids
    found = backward(
        context,
        decoder,
        ids,
        Salience(members, samples),
        outer=OuterSalience(members, samples),
        batch=parameters.batch,
    )
    agreement = _agreement(Scored(about, found.layers, found.outer), shapes) if samples > 1 else {}
    _say(context, agreement, samples)
    about = {
        **about,
        "loss": shortened(float(found.losses.double().mean())),
        "agreement_of_halves": {name: shortened(value) for name, value in agreement.items()},
        "data": about_data(drawn.record),
    }
    layer_runs = 4 * shapes.layers  # forwards, the same again, and two products a matrix
    notes = {"layer_runs": layer_runs, "head_runs": 5, "tokens_scored": ids.numel()}
    notes |= {"products": decoder.kernel, "agreement_of_halves": agreement}
    vectors = [{k: v for k, v in layer.items() if not k.endswith(HALVES)} for layer in found.layers]
    outer = {k: v for k, v in found.outer.items() if not k.endswith(HALVES)}
    return Scored(about, vectors, outer), Outcome(data=drawn.record, notes=notes)


def _agreement(scored: Scored, shapes: Shapes) -> dict[str, float]:
    """The median over layers of the rank correlation between both halves of the samples."""
    one, other = (scored.importance(half, shapes, reference=False) for half in HALVES)
    pairs = list(zip(one, other, strict=True))
    found = {"neurons": median(rank_correlation(a.neurons, b.neurons) for a, b in pairs)}
    if shapes.kv_heads > 1:
        found["heads"] = median(rank_correlation(a.heads, b.heads) for a, b in pairs)
    return found


def _say(context: StageContext, agreement: Mapping[str, float], samples: int) -> None:
    """How far the result depends on which samples were drawn."""
    if not agreement:
        context.progress.say("one sample: nothing says how much the choice of it decides.")
        return
    shown = ", ".join(f"{name} {value:.2f}" for name, value in agreement.items())
    few = min(agreement.values()) < AGREEING
    advice = f": {samples} samples decide much, so give more SAMPLES" if few else ""
    context.progress.say(f"rank correlation of two halves of the calibration: {shown}{advice}")


def _by_weights(
    context: StageContext, model: Path, members: Sequence[Member], about: Mapping[str, Any]
) -> Scored:
    reader, architecture = CheckpointReader(model), Architecture.of(model)
    architecture.check(reader)
    layers = []
    with context.progress.steps("score", architecture.num_layers) as steps:
        for number in range(architecture.num_layers):
            prefix = f"model.layers.{number}."
            wanted = {member.name for member in members if prefix + member.name in reader}
            weights = {name: reader.read(prefix + name) for name in wanted}
            layers.append(magnitudes(members, weights))
            steps.advance(layer=number)
    outer: dict[str, Tensor] = {}
    for member in members:
        if member.name not in reader:
            continue
        for block in reader.blocks(member.name):
            for form, values in magnitudes_of(block, member.dimension).items():
                name = f"{member.name}:{form}"
                outer[name] = outer[name] + values if name in outer else values
    return Scored({**about, "data": {}}, layers, outer)
