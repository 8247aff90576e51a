"""The stage `train-gpu` and its parameters."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from espalier.architectures.shapes import Shapes
from espalier.errors import InputError
from espalier.parameters import Optional, Parameters, Seed, parse_count
from espalier.stage import Estimate, Stage
from training.gpu_fsdp.budget import training_flops

Count = BeforeValidator(parse_count)
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
LONGEST = 8192
"""Tokens a sequence where SEQLEN is not given and the model has more positions."""
STATE_BYTES = 16
"""A weight, its gradient and AdamW's two moments, float32."""
PROCESS_BYTES, CPU_FLOPS = 600 << 20, 60e9


class TrainingParameters(Parameters):
    """What is trained, how long, and with which loss; and, last, how it is run."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset(
        ("micro_batch", "recompute", "compile", "replicas", "save_every", "tracker", "verify")
    )

    tokens: Annotated[
        Positive | None, Count, Field(description="training tokens, such as 52.4B; default EPOCHS")
    ] = None
    epochs: Annotated[
        Annotated[float, Field(gt=0)] | None, Optional,
        Field(description="passes over the data that are allowed; default one"),
    ] = None  # fmt: skip
    batch: Annotated[Positive, Field(description="sequences a step, over all GPUs")] = 512
    seqlen: Annotated[
        Annotated[int, Field(ge=2)] | None, Optional,
        Field(description="tokens a sequence; default min(model's positions, 8192)"),
    ] = None  # fmt: skip
    init: Annotated[
        Literal["checkpoint", "random"],
        Field(description="the checkpoint's weights, or fresh ones"),
    ] = "checkpoint"
    policy: Annotated[
        Literal["preserve", "densify"], Field(description="whether pruned weights stay zero")
    ] = "preserve"
    optimizer: Annotated[Literal["adamw", "muon"], Field(description="adamw or muon")] = "adamw"
    lr: Annotated[float, Field(gt=0, description="peak learning rate")] = 3e-4
    schedule: Annotated[
        Literal["cosine", "linear", "constant", "wsd"], Field(description="how the rate falls")
    ] = "cosine"
    warmup: Annotated[Fraction, Field(description="fraction of steps, 2000 at most")] = 0.05
    final_lr: Annotated[Fraction, Field(description="last rate as a fraction of LR")] = 0.1
    weight_decay: Annotated[float, Field(ge=0, description="decoupled")] = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1, description="AdamW's")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="AdamW's")] = 0.95
    clip: Annotated[float, Field(ge=0, description="gradient norm at most; 0: no clipping")] = 1.0
    z_loss: Annotated[Weight, Field(description="weight of log² Z (PaLM, section 5)")] = 0.0
    document_mask: Annotated[bool, Field(description="tokens see their own document alone")] = False
    precision: Annotated[
        Literal["bf16", "float32"] | None, Optional,
        Field(description="of products; weights stay float32; default: as the model is stored"),
    ] = None  # fmt: skip
    seed: Seed = 0
    ce_weight: Annotated[
        Weight | None, Optional, Field(description="of cross-entropy; default 1, 0 with TEACHER")
    ] = None
    kl_weight: Annotated[Weight, Field(description="of KL(teacher || student), with TEACHER")] = 1.0
    hidden_weight: Annotated[Weight, Field(description="of hidden states' mean square")] = 0.0
    temperature: Annotated[float, Field(gt=0, description="of both in KL")] = 1.0
    valid_every: Annotated[
        Positive | None, Optional, Field(description="steps between validations; default a tenth")
    ] = None
    valid_tokens: Annotated[
        Positive, Count, Field(description="of the data's valid split at most")
    ] = 1_000_000

    micro_batch: Annotated[
        Positive | None, Optional, Field(description="sequences a GPU at once; default 8192 tokens")
    ] = None
    recompute: Annotated[bool, Field(description="activation checkpointing, a layer each")] = False
    compile: Annotated[bool, Field(description="torch.compile every layer")] = False
    replicas: Annotated[Positive, Field(description="HSDP: groups that hold the whole model")] = 1
    save_every: Annotated[
        Positive | None, Optional, Field(description="steps between checkpoints; default a tenth")
    ] = None
    tracker: Annotated[
        Literal["none", "tensorboard", "wandb"], Field(description="beside metrics.jsonl")
    ] = "tensorboard"
    verify: Annotated[bool, Field(description="hash the data before training")] = True

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.micro_batch and self.batch % self.micro_batch:
            raise ValueError(f"MICRO_BATCH={self.micro_batch} does not divide BATCH={self.batch}")
        return self

    def label(self) -> str:
        """`scratch-52.4B`, `1ep`."""
        length = compact(self.tokens) if self.tokens else f"{self.epochs or 1:g}ep"
        return f"scratch-{length}" if self.init == "random" else length

    def sequence_length(self, positions: int) -> int:
        """SEQLEN, or what the model's positions give.

        Raises:
            InputError: it is longer than they are.
        """
        if self.seqlen and self.seqlen > positions:
            raise InputError(
                f"SEQLEN={self.seqlen} is longer than the model's {positions} positions; lower it."
            )
        return self.seqlen or min(positions, LONGEST)

    def cross_entropy_weight(self, distilled: bool) -> float:
        """CE_WEIGHT, or what its absence means."""
        return float(not distilled) if self.ce_weight is None else self.ce_weight


def compact(count: int) -> str:
    """`52.4B`: the shortest of B, M, K and units that loses nothing of three digits."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return str(count)


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
)  # fmt: skip
