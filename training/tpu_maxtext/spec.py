"""The stage `train-tpu` and its parameters."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from espalier.contract.stage import Estimate, Stage
from espalier.models.flops import training_flops
from espalier.models.shapes import Shapes
from training.protocol.parameters import LONGEST, ProtocolParameters

STATE_BYTES = 17
"""A weight, its gradient, AdamW's two moments, float32, and a mask's byte."""
PROCESS_BYTES, CPU_FLOPS = 1500 << 20, 20e9


class TpuTrainingParameters(ProtocolParameters):
    """What MaxText trains: the protocol, by AdamW and cross-entropy."""

    EXECUTION: ClassVar[frozenset[str]] = ProtocolParameters.EXECUTION | frozenset(("plan",))

    plan: Annotated[
        bool, Field(description="on a TPU VM, compile for it first and see that it fits")
    ] = True


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    shapes = Shapes.of(config)
    seqlen = parameters.sequence_length(shapes.positions)
    micro = (parameters.micro_batch or max(1, LONGEST // seqlen)) * seqlen
    attention = 4 * shapes.heads * micro * seqlen
    activations = micro * (
        4 * shapes.layers * (10 * shapes.hidden + 4 * shapes.intermediate) + 12 * shapes.vocabulary
    )
    tokens = parameters.tokens or 0
    return Estimate(
        memory=PROCESS_BYTES + STATE_BYTES * shapes.parameters + activations + attention,
        disk=2 * 13 * shapes.parameters + 2 * shapes.parameters * shapes.item_bytes,
        seconds=60 + tokens * training_flops(shapes, seqlen) / CPU_FLOPS,
    )


STAGE = Stage(
    name="train-tpu",
    verb="train",
    section="checkpoints",
    image="maxtext",
    parameters=TpuTrainingParameters,
    entry="training.tpu_maxtext.stage:run",
    join="training.tpu_maxtext.stage:join",
    checked_in="eval",
    tpu=True,
    summary="train a model to a token budget by MaxText: from scratch, continued, or sparse",
    inputs={"data": True, "model": False, "architecture": False, "tokenizer": False},
    estimate=_estimate,
    saved="training.tpu_maxtext.saved:last_step",
)
