"""What the host knows of ShortGPT."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator

from espalier.contract.stage import Derived, Estimate, Stage
from espalier.models.shapes import Shapes
from espalier.pruning.estimate import Tokens, estimate_copy, estimate_forward
from espalier.pruning.parameters import ScoreParameters
from espalier.pruning.structured.parameters import Axis, Layers, ShapeParameters
from espalier.pruning.structured.unroll import unroll


class ShortGPTParameters(ShapeParameters):
    """How many layers are kept."""

    axes: ClassVar[tuple[Axis, ...]] = ("layers",)
    searched: ClassVar[tuple[Axis, ...]] = ("layers",)

    layers: Layers = None

    @model_validator(mode="after")
    def _sized(self) -> "ShortGPTParameters":
        self.require_a_size()
        return self


def estimate_scores(parameters: ScoreParameters, config: Mapping[str, Any]) -> Estimate:
    """One forward pass."""
    given = (parameters.samples, parameters.seqlen, parameters.batch)
    return estimate_forward(config, Tokens.of(*given, Shapes.of(config)))


def estimate(parameters: ShortGPTParameters, config: Mapping[str, Any]) -> Estimate:
    """Copying what is kept."""
    return estimate_copy(config)


STAGES = (
    Stage(
        name="score-shortgpt",
        verb="score",
        section="scores",
        image="minitron",
        parameters=ScoreParameters,
        entry="methods.shortgpt.score_stage:run",
        summary="Measure each layer's block influence, in one pass.",
        inputs={"model": True, "calibration": True},
        estimate=estimate_scores,
    ),
    Stage(
        name="shortgpt",
        verb="prune",
        section="checkpoints",
        image="minitron",
        parameters=ShortGPTParameters,
        entry="methods.shortgpt.stage:run",
        summary="Remove the layers that change the hidden states least.",
        inputs={"model": True, "scores": True},
        estimate=estimate,
        derived={"scores": Derived("score-shortgpt")},
        unroll=unroll,
    ),
)
