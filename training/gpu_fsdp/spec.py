"""The stage `train-gpu` and its parameters."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from espalier.contract.stage import Estimate, Stage
from espalier.models.flops import training_flops
from espalier.models.shapes import Shapes
from training.protocol.parameters import (
    LONGEST,
    Positive,
    ProtocolParameters,
    TaughtParameters,
    Tracker,
    Weight,
)

STATE_BYTES = 16
"""A weight, its gradient and AdamW's two moments, float32."""
PROCESS_BYTES, CPU_FLOPS = 600 << 20, 60e9


class TrainingParameters(TaughtParameters, ProtocolParameters):
    """What is trained, how long, and with which loss; and, last, how it is run."""

    EXECUTION: ClassVar[frozenset[str]] = ProtocolParameters.EXECUTION | frozenset(
        ("compile", "replicas", "tracker")
    )

    optimizer: Annotated[Literal["adamw", "muon"], Field(description="adamw or muon")] = "adamw"
    document_mask: Annotated[bool, Field(description="tokens see their own document alone")] = False
    hidden_weight: Annotated[Weight, Field(description="of hidden states' mean square")] = 0.0

    compile: Annotated[bool, Field(description="torch.compile every layer")] = False
    replicas: Annotated[Positive, Field(description="HSDP: groups that hold the whole model")] = 1
    tracker: Tracker = "tensorboard"


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    shapes = Shapes.of(config)
    seqlen = parameters.sequence_length(shapes.positions)
    micro = (parameters.micro_batch or max(1, LONGEST // seqlen)) * seqlen
    activations = micro * (
        4 * shapes.layers * (10 * shapes.hidden + 4 * shapes.intermediate) + 12 * shapes.vocabulary
    )
    tokens = parameters.tokens or 0
    return Estimate(
        memory=PROCESS_BYTES + STATE_BYTES * shapes.parameters + activations,
        disk=2 * 12 * shapes.parameters + 2 * shapes.parameters * shapes.item_bytes,
        seconds=20 + tokens * training_flops(shapes, seqlen) / CPU_FLOPS,
    )


STAGE = Stage(
    name="train-gpu",
    verb="train",
    section="checkpoints",
    image="fsdp",
    parameters=TrainingParameters,
    entry="training.gpu_fsdp.stage:run",
    join="training.gpu_fsdp.stage:join",
    summary="train a model to a token budget: from scratch, continued or distilled",
    inputs={
        "data": True, "model": False, "architecture": False, "tokenizer": False, "teacher": False,
    },
    estimate=_estimate,
    saved="training.gpu_fsdp.saved:last_step",
)  # fmt: skip
