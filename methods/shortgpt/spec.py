"""What the host knows of ShortGPT."""

from espalier.contract.stage import Derived, Stage
from espalier.pruning.estimate import estimate_copying, estimate_one_pass
from espalier.pruning.parameters import ScoreParameters
from espalier.pruning.structured.parameters import LayersLeft
from espalier.pruning.structured.unroll import unroll

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
        estimate=estimate_one_pass,
    ),
    Stage(
        name="shortgpt",
        verb="prune",
        section="checkpoints",
        image="minitron",
        parameters=LayersLeft,
        entry="methods.shortgpt.stage:run",
        summary="Remove the layers that change the hidden states least.",
        inputs={"model": True, "scores": True},
        estimate=estimate_copying,
        derived={"scores": Derived("score-shortgpt")},
        unroll=unroll,
    ),
)
