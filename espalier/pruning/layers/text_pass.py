"""From a scoring stage's parameters and inputs to what an observer has seen of each layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from espalier.contract.stage import Outcome, StageContext
from espalier.data.windows import leading_windows
from espalier.models.decoder import Decoder
from espalier.models.shapes import Shapes
from espalier.pruning.layers.one_pass import Observer, one_pass
from espalier.pruning.parameters import ScoreParameters
from espalier.pruning.scores import model_name


@dataclass(frozen=True)
class Passed:
    """One pass.

    Attributes:
        model: what scores call it.
        shapes: its sizes.
        layers: what was observed of each.
        outcome: for the manifest; its `data` says which tokens passed.
    """

    model: str
    shapes: Shapes
    layers: list[dict[str, Any]]
    outcome: Outcome

    @property
    def tokens(self) -> dict[str, Any]:
        """The record of the tokens that passed."""
        return self.outcome.data or {}


def pass_over_text(
    context: StageContext, parameters: ScoreParameters, observer: Callable[[Shapes], Observer]
) -> Passed:
    """Pass the tokens of the input `calibration` through the input `model`.

    Raises:
        InputError: the model or the tokens do not fit.
    """
    model = context.inputs["model"]
    text = context.inputs["calibration"]
    windows = leading_windows(text, model, parameters.samples, parameters.seqlen)
    decoder = Decoder(model, context.device)
    shapes = decoder.architecture.shapes
    ids, batch = windows.input_ids, parameters.batch
    layers = one_pass(context, decoder, ids, batch, observer(shapes))
    outcome = Outcome(data=windows.record, notes={"products": decoder.kernel})
    return Passed(model_name(model), shapes, layers, outcome)
