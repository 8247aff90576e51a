"""The stage `recover` and its parameters."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from espalier.contract.parameters import Count, Optional
from espalier.contract.stage import Estimate, Stage
from espalier.models.flops import adapter_flops
from espalier.models.shapes import Shapes
from training.protocol.parameters import (
    LONGEST,
    Positive,
    StepParameters,
    TaughtParameters,
    Tracker,
)

INSTRUCTION, WINDOW = 256, 2048
"""Tokens a sequence where SEQLEN is not given: of an instruction, and of a text."""
STATE_BYTES = 16
"""Of an adapter's parameter: itself, its gradient and AdamW's two moments, float32."""
PROCESS_BYTES, CPU_FLOPS = 800 << 20, 40e9
USUAL_TOKENS = 5_500_000
"""About those of `alpaca`, where EPOCHS alone says how long it takes."""
HELD_OUT = 10
"""At most one sequence in so many is held out."""


class RecoverParameters(TaughtParameters, StepParameters):
    """Which adapters are trained, how long and with which loss; and, last, how it is run."""

    EXECUTION: ClassVar[frozenset[str]] = StepParameters.EXECUTION | {"tracker"}

    r: Annotated[Positive, Field(description="rank of the adapters")] = 8
    alpha: Annotated[float, Field(gt=0, description="they are scaled by ALPHA / R")] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1, description="of what the adapters read")] = 0.05
    prompt_loss: Annotated[
        bool, Field(description="count an instruction's own tokens in the loss too")
    ] = False
    valid: Annotated[
        int, Field(ge=0, description="sequences held out at most; a tenth, of few data")
    ] = 2000

    tokens: Annotated[
        Positive | None, Count, Field(description="training tokens, such as 5M; default EPOCHS")
    ] = None
    epochs: Annotated[float, Field(gt=0, description="passes over the data that are allowed")] = 2.0
    batch: Annotated[Positive, Field(description="sequences a step")] = 64
    seqlen: Annotated[
        Annotated[int, Field(ge=2)] | None, Optional,
        Field(description="tokens a sequence at most; default 256 of instructions, 2048 of texts"),
    ] = None  # fmt: skip
    lr: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-4
    weight_decay: Annotated[float, Field(ge=0, description="decoupled")] = 0.0
    beta2: Annotated[float, Field(ge=0, lt=1, description="AdamW's")] = 0.999
    precision: Annotated[
        Literal["bf16", "float32"] | None, Optional,
        Field(description="of the frozen weights and products; default: as the model is stored"),
    ] = None  # fmt: skip
    tracker: Tracker = "tensorboard"

    @property
    def scale(self) -> float:
        return self.alpha / self.r


def adapter_parameters(shapes: Shapes, rank: int) -> int:
    """How many parameters the adapters of all layers' matrices have."""
    return rank * shapes.layers * sum(map(sum, shapes.matrices.values()))


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    shapes = Shapes.of(config)
    seqlen = parameters.seqlen or min(shapes.positions, INSTRUCTION)
    micro = (parameters.micro_batch or max(1, LONGEST // seqlen)) * seqlen
    item = {"float32": 4, "bf16": 2}.get(parameters.precision or "", shapes.item_bytes)
    width = 14 * shapes.hidden + 5 * shapes.intermediate
    layers = 1 if parameters.recompute else shapes.layers
    activations = micro * (item * layers * width + 12 * shapes.vocabulary)
    adapters = adapter_parameters(shapes, parameters.r)
    flops = adapter_flops(shapes, seqlen, adapters, through_weights=True)
    tokens = parameters.tokens or parameters.epochs * USUAL_TOKENS
    products = tokens * flops / CPU_FLOPS
    return Estimate(
        memory=PROCESS_BYTES + item * shapes.parameters + STATE_BYTES * adapters + activations,
        disk=2 * shapes.parameters * shapes.item_bytes + 3 * 12 * adapters,
        seconds=20 + products,
        products=products,
    )


STAGE = Stage(
    name="recover",
    verb="train",
    section="checkpoints",
    image="fsdp",
    parameters=RecoverParameters,
    entry="training.recover.stage:run",
    summary="recover a pruned model by low-rank adapters (LoRA), merged with every zero kept",
    inputs={"model": True, "examples": True, "teacher": False},
    estimate=_estimate,
    saved="training.gpu_fsdp.saved:last_step",
)
