"""What trainers are told in the same words: what is trained, how long, and how it is run."""

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from espalier.contract.parameters import Count, Optional, Parameters, Seed
from espalier.errors import InputError
from training.protocol.schedule import Shape, learning_rate

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Tracker = Annotated[
    Literal["none", "tensorboard", "wandb"], Field(description="beside metrics.jsonl")
]
LONGEST = 8192
"""Tokens a sequence where SEQLEN is not given and the model has more positions."""


class StepParameters(Parameters):
    """How a run steps, whatever it trains: its length, its batches, its rate, what it saves."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset(("micro_batch", "recompute", "save_every"))

    tokens: Annotated[
        Positive | None, Count, Field(description="training tokens, such as 52.4B; default EPOCHS")
    ] = None
    epochs: Annotated[
        Annotated[float, Field(gt=0)] | None, Optional,
        Field(description="passes over the data that are allowed; default one"),
    ] = None  # fmt: skip
    batch: Annotated[Positive, Field(description="sequences a step, over all devices")] = 512
    seqlen: Annotated[
        Annotated[int, Field(ge=2)] | None, Optional,
        Field(description="tokens a sequence; default min(model's positions, 8192)"),
    ] = None  # fmt: skip
    policy: Annotated[
        Literal["preserve", "densify"], Field(description="whether pruned weights stay zero")
    ] = "preserve"
    lr: Annotated[float, Field(gt=0, description="peak learning rate")] = 3e-4
    schedule: Annotated[Shape, Field(description="how the rate falls")] = "cosine"
    warmup: Annotated[Fraction, Field(description="fraction of steps, 2000 at most")] = 0.05
    final_lr: Annotated[Fraction, Field(description="last rate as a fraction of LR")] = 0.1
    weight_decay: Annotated[float, Field(ge=0, description="decoupled")] = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1, description="AdamW's")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="AdamW's")] = 0.95
    clip: Annotated[float, Field(ge=0, description="gradient norm at most; 0: no clipping")] = 1.0
    precision: Annotated[
        Literal["bf16", "float32"] | None, Optional,
        Field(description="of products; weights stay float32; default: as the model is stored"),
    ] = None  # fmt: skip
    seed: Seed = 0
    valid_every: Annotated[
        Positive | None, Optional, Field(description="steps between validations; default a tenth")
    ] = None

    micro_batch: Annotated[
        Positive | None, Optional,
        Field(description="sequences a device at once; default 8192 tokens"),
    ] = None  # fmt: skip
    recompute: Annotated[bool, Field(description="activation checkpointing, a layer each")] = False
    save_every: Annotated[
        Positive | None, Optional, Field(description="steps between checkpoints; default a tenth")
    ] = None

    @property
    def fresh(self) -> bool:
        """Whether the run starts from new weights."""
        return False

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.micro_batch and self.batch % self.micro_batch:
            raise ValueError(
                f"MICRO_BATCH={self.micro_batch} does not divide BATCH={self.batch}; give "
                f"MICRO_BATCH={largest_divisor(self.batch, self.micro_batch)}"
            )
        return self

    def label(self) -> str:
        """`52.4B`, `1ep`."""
        return compact(self.tokens) if self.tokens else f"{self.epochs or 1:g}ep"

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of `step` (from 0) of `steps`."""
        return learning_rate(
            step,
            steps,
            peak=self.lr,
            shape=self.schedule,
            warmup=self.warmup,
            final=self.final_lr,
        )

    def due(self, every: int | None, step: int, steps: int) -> bool:
        """Whether what is done `every` so many of `steps`, by default a tenth, follows `step`."""
        return step == steps or step % (every or max(1, math.ceil(steps / 10))) == 0

    def sequence_length(self, positions: int) -> int:
        """SEQLEN, or what the model's positions give.

        Raises:
            InputError: it is longer than they are.
        """
        if self.seqlen and self.seqlen > positions:
            raise InputError(
                f"SEQLEN={self.seqlen} is longer than the model's {positions} positions; give "
                f"SEQLEN={positions} or less."
            )
        return self.seqlen or min(positions, LONGEST)

    def share(self, devices: int, what: str) -> int:
        """How many of a step's sequences each of `devices`, which are `what`, takes.

        Raises:
            InputError: they do not divide BATCH.
        """
        share, rest = divmod(self.batch, devices)
        if rest:
            unit = devices * (self.micro_batch or 1)
            fewer = self.batch // unit * unit
            ways = [f"BATCH={size}" for size in (fewer, fewer + unit) if size]
            raise InputError(
                f"BATCH={self.batch} does not divide among {devices} {what}; give "
                f"{' or '.join(ways)}."
            )
        return share

    def sequences_at_once(self, share: int, seqlen: int) -> int:
        """MICRO_BATCH, or about 8192 tokens: what one device takes of its `share` of a batch.

        Raises:
            InputError: it does not divide the share.
        """
        if self.micro_batch is None:
            return largest_divisor(share, max(1, LONGEST // seqlen))
        if share % self.micro_batch:
            raise InputError(
                f"MICRO_BATCH={self.micro_batch} does not divide the {share} sequences that each "
                f"device has a step; give MICRO_BATCH={largest_divisor(share, self.micro_batch)}."
            )
        return self.micro_batch


class TaughtParameters(Parameters):
    """What a teacher's part in the objective is."""

    ce_weight: Annotated[
        Weight | None, Optional, Field(description="of cross-entropy; default 1, 0 with TEACHER")
    ] = None
    kl_weight: Annotated[Weight, Field(description="of KL(teacher || student), with TEACHER")] = 1.0
    temperature: Annotated[float, Field(gt=0, description="of both in KL")] = 1.0

    def cross_entropy_weight(self, distilled: bool) -> float:
        """CE_WEIGHT, or what its absence means."""
        return float(not distilled) if self.ce_weight is None else self.ce_weight


class ProtocolParameters(StepParameters):
    """The protocol of a run that trains all weights; a trainer adds what it alone can do."""

    EXECUTION: ClassVar[frozenset[str]] = StepParameters.EXECUTION | {"verify"}

    init: Annotated[
        Literal["checkpoint", "random"],
        Field(description="the checkpoint's weights, or fresh ones"),
    ] = "checkpoint"
    decay: Annotated[
        Literal["all", "matrices"],
        Field(description="what decays: all weights, or matrices alone (no norms, no biases)"),
    ] = "all"
    z_loss: Annotated[Weight, Field(description="weight of log² Z (PaLM, section 5)")] = 0.0
    valid_tokens: Annotated[
        Positive, Count, Field(description="of the data's valid split at most")
    ] = 1_000_000
    verify: Annotated[bool, Field(description="hash the data before training")] = True

    @property
    def fresh(self) -> bool:
        return self.init == "random"

    def label(self) -> str:
        """`scratch-52.4B`, `1ep`."""
        return f"scratch-{super().label()}" if self.fresh else super().label()


def largest_divisor(number: int, most: int) -> int:
    """Of `number`, and no larger than `most`."""
    return max(size for size in range(1, min(most, number) + 1) if number % size == 0)


def compact(count: int) -> str:
    """`52.4B`: the shortest of T, B, M, K and units that loses nothing of three digits."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return str(count)
