"""FLAP's measurement as a stage: one pass of the dense model, whatever is pruned by it later."""

from pathlib import Path
from typing import Any

from espalier.contract.stage import Outcome, StageContext
from espalier.data.calibration import load_calibration
from espalier.figures import save
from espalier.models.decoder import Decoder
from espalier.pruning.layers.taps import inputs_of
from espalier.pruning.layers.walk import LayerStep, walk
from espalier.pruning.parameters import SHORT_WINDOW
from espalier.pruning.scores import about_data, model_name, write_scores
from methods.flap.algorithm import column_facts
from methods.flap.plots import draw_features
from methods.flap.scored import FILE, KIND, SITES, join_layers, write_layer
from methods.flap.spec import FlapScoreParameters
from methods.flap.statistics import InputStatistics


def run(context: StageContext, parameters: FlapScoreParameters) -> Outcome:
    """Measure the input `model` on the tokens of the input `calibration`.

    Raises:
        InputError: the model or the tokens do not fit.
    """
    model = context.inputs["model"]
    calibration = load_calibration(
        context.inputs["calibration"],
        model,
        parameters.samples,
        parameters.seqlen,
        parameters.seed,
        window=SHORT_WINDOW,
    )
    decoder = Decoder(model, context.device)
    measured = _Measuring(context.scratch, context.device)
    walk(
        context,
        decoder,
        measured,
        title="score",
        input_ids=calibration.input_ids,
        batch=parameters.batch,
    )
    layers = [measured.file(number) for number in range(decoder.num_layers)]
    figures = join_layers(layers, context.output / FILE)
    scores = {
        "kind": KIND,
        "model": model_name(model),
        "layers": decoder.num_layers,
        "kv_heads": decoder.architecture.shapes.kv_heads,
        "data": about_data(calibration.record),
    }
    write_scores(context.output, scores)
    save(draw_features(scores, figures), context.output / "fluctuation")
    return Outcome(data=calibration.record, notes={"products": decoder.kernel})


class _Measuring:
    """Keeps each layer's figures in a file of its own, so that a run that resumes has them."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder, self._device = folder, device

    def file(self, layer: int) -> Path:
        """Where a layer's figures lie."""
        return self._folder / f"figures-{layer}.safetensors"

    def visit(self, step: LayerStep) -> dict[str, Any]:
        """Pass the tokens through the dense layer, and write what was seen of it."""
        parts = {site: step.module.get_submodule(name) for site, name in SITES.items()}
        statistics = {
            site: InputStatistics(part.in_features, self._device) for site, part in parts.items()
        }
        step.advance([inputs_of(name, statistics[site].add) for site, name in SITES.items()])
        figures = {
            site: {**statistics[site].values(), **column_facts(part.weight.data)}
            for site, part in parts.items()
        }
        write_layer(self.file(step.number), figures)
        return {"layer": step.number}
