"""What the host knows of Sheared-LLaMA: losses by domain, measured, and a learning of masks."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from espalier.contract.parameters import Count, Optional, Parameters, Seed
from espalier.contract.stage import Derived, Estimate, Stage, Unrolled
from espalier.models.flops import forward_flops, training_flops
from espalier.models.shapes import Shapes
from espalier.pruning.structured.parameters import Ffn, Heads, Hidden, Layers
from espalier.pruning.structured.target import sized
from methods.sheared_llama.target import Sizes, Target, sizes_of

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
LONGEST = 4096
"""Tokens a row where SEQLEN is not given, as published."""
TOKENS_AT_ONCE = 8192
BEGINNING = 0.1
"""Share of the steps in which targets rise and rates warm up: 320 of 3200 in the published run."""
OFTEN = 50
"""Steps between evaluations, as published; so many at least between checkpoints."""
RECOVERY_TOKENS, RECOVERY_ROWS, RECOVERY_RATE = 50_000_000_000, 256, 1e-4
"""Of the training that follows masks, as published: tokens, rows a step, peak learning rate."""
RECOVERY_BEGINNING = 0.03
"""Share of its steps in which the rate rises."""
STATE_BYTES = 16
"""Of a parameter: itself, its gradient and AdamW's two moments, float32."""
PROCESS_BYTES, CPU_FLOPS = 1 << 30, 40e9
FORECAST = "forecast"


class RowParameters(Parameters):
    """Rows of tokens, and how many pass at a time."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"micro_batch"})

    seqlen: Annotated[
        Annotated[int, Field(ge=2)] | None, Optional,
        Field(description="tokens a row; default min(model's positions, 4096)"),
    ] = None  # fmt: skip
    valid: Annotated[Positive, Field(description="held-out rows of each domain, at most")] = 64
    micro_batch: Annotated[
        Positive | None, Optional, Field(description="rows at once; default 8192 tokens")
    ] = None  # fmt: skip

    def length(self, positions: int) -> int:
        """Tokens a row, of a model with so many positions."""
        return self.seqlen or min(positions, LONGEST)

    def micro(self, seqlen: int) -> int:
        """Rows at once."""
        return self.micro_batch or max(1, TOKENS_AT_ONCE // seqlen)


class DomainLossParameters(RowParameters):
    """How much of each domain is measured."""

    def label(self) -> str:
        """`64`, `64x512`."""
        return f"{self.valid}x{self.seqlen}" if self.seqlen else str(self.valid)


class ShearedLlamaParameters(RowParameters):
    """To which shape, on how much of which data, and how masks are learned."""

    EXECUTION: ClassVar[frozenset[str]] = RowParameters.EXECUTION | {
        *("recompute", "save_every", "tracker"),
    }

    target: Annotated[
        str | None, Optional,
        Field(description="2.7b, 1.3b, 370m or a .toml file with layers, hidden, heads, ffn"),
    ] = None  # fmt: skip
    layers: Layers = None
    hidden: Hidden = None
    heads: Heads = None
    ffn: Ffn = None
    tokens: Annotated[
        Positive, Count, Field(description="that masks are learned on; published: 0.42B")
    ] = 419_430_400
    batch: Annotated[Positive, Field(description="rows a step")] = 32
    masks: Annotated[
        Literal["sampled", "deterministic"],
        Field(description="drawn anew for each step, or the most likely ones, without noise"),
    ] = "sampled"
    proportions: Annotated[
        Literal["fixed", "doremi", "bandit"],
        Field(description="whether, and by which rule, domains with more excess loss grow"),
    ] = "doremi"
    shares: Annotated[
        str, Field(description="domain=share,… to begin with; default RedPajama's, or by tokens")
    ] = ""
    reference_losses: Annotated[
        str,
        Field(
            description="domain=loss,…, or 2.7b, 1.3b, 370m (published), or forecast from MODEL's"
        ),
    ] = FORECAST
    lr: Annotated[Rate, Field(description="peak learning rate of the weights")] = 1e-4
    mask_lr: Annotated[Rate, Field(description="of the masks")] = 1.0
    lag_lr: Annotated[Rate, Field(description="of the multipliers, which ascend")] = 1.0
    clip: Annotated[float, Field(gt=0, description="gradient norm at most")] = 1.0
    precision: Annotated[
        Literal["bf16", "float32"] | None, Optional,
        Field(description="of products; default: as the model is stored, float32 on a processor"),
    ] = None  # fmt: skip
    recover: Annotated[
        bool, Field(description="train on, by Composer, what masks left, with the same loading")
    ] = False
    recover_tokens: Annotated[
        Positive | None, Count, Field(description="of that training; default 50B, as published")
    ] = None
    recover_batch: Annotated[
        Positive | None, Optional, Field(description="rows a step of it; default 256")
    ] = None  # fmt: skip
    recover_lr: Annotated[
        Rate | None, Optional, Field(description="peak learning rate of it; default 1e-4")
    ] = None  # fmt: skip
    seed: Seed = 17
    eval_every: Annotated[
        Positive | None, Optional,
        Field(description="steps between evaluations; default 50, or a tenth of fewer than 500"),
    ] = None  # fmt: skip
    save_every: Annotated[
        Positive | None, Optional,
        Field(description="steps between checkpoints; default as EVAL_EVERY"),
    ] = None  # fmt: skip
    recompute: Annotated[bool, Field(description="activation checkpointing, a layer each")] = False
    tracker: Annotated[
        Literal["none", "tensorboard", "wandb"], Field(description="beside metrics.jsonl")
    ] = "none"

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        sized = any((self.layers, self.hidden, self.heads, self.ffn))
        if sized == (self.target is not None):
            raise ValueError(
                "give TARGET, or LAYERS, HIDDEN, HEADS and FFN of the shape that is to be left"
                + (", not both" if sized else "")
            )
        return self

    @model_validator(mode="after")
    def _rows_divide(self) -> Self:
        sizes = {"BATCH": self.batch, "RECOVER_BATCH": self.rows_of_recovery}
        for name, rows in sizes.items() if self.recover else [("BATCH", self.batch)]:
            if self.micro_batch and rows % self.micro_batch:
                raise ValueError(f"MICRO_BATCH={self.micro_batch} does not divide {name}={rows}")
        return self

    @model_validator(mode="after")
    def _recovery_is_asked_for(self) -> Self:
        given = (self.recover_tokens, self.recover_batch, self.recover_lr)
        if any(given) and not self.recover:
            raise ValueError("RECOVER_TOKENS, RECOVER_BATCH and RECOVER_LR go with RECOVER=1")
        return self

    def label(self) -> str:
        """`1.3b`, or the sizes: `24-h2048-a16-f5504`; `1.3b-recovered`."""
        sizes = {"": self.layers, "h": self.hidden, "a": self.heads, "f": self.ffn}
        shape = "-".join(f"{letter}{size}" for letter, size in sizes.items() if size)
        if self.target is not None:
            shape = self.target.rpartition("/")[2].removesuffix(".toml").lower()
        return f"{shape}-recovered" if self.recover else shape

    def unused(self) -> frozenset[str]:
        """Losses of the parent, where nothing is forecast from them."""
        forecasts = self.proportions != "fixed" and self.reference_losses == FORECAST
        return frozenset() if forecasts else frozenset({"losses"})

    def aim(self, parent: Shapes) -> Target:
        """The shape of what is left.

        Raises:
            InputError: there is none such.
        """
        return Target.of(parent, self.sizes())

    def sizes(self) -> Sizes:
        """The sizes that are asked for, by whatever name.

        Raises:
            InputError: TARGET is not known, or a file that cannot be read.
        """
        if self.target is not None:
            return sizes_of(self.target)
        return Sizes(self.layers, self.hidden, self.heads, self.ffn)

    def steps(self, seqlen: int) -> int:
        """How many batches TOKENS are."""
        return max(1, math.ceil(self.tokens / (self.batch * seqlen)))

    def beginning(self, steps: int) -> int:
        """Steps until the targets and the rates are what is asked for."""
        return round(BEGINNING * steps)

    @property
    def rows_of_recovery(self) -> int:
        """A step of the training that follows masks."""
        return self.recover_batch or RECOVERY_ROWS

    @property
    def rate_of_recovery(self) -> float:
        """Its peak learning rate."""
        return self.recover_lr or RECOVERY_RATE

    def steps_of_recovery(self, seqlen: int) -> int:
        """How many batches it is; 0: none is asked for."""
        if not self.recover:
            return 0
        tokens = self.recover_tokens or RECOVERY_TOKENS
        return max(1, math.ceil(tokens / (self.rows_of_recovery * seqlen)))

    def beginning_of_recovery(self, steps: int) -> int:
        """Steps in which its rate rises."""
        return round(RECOVERY_BEGINNING * steps)

    def every(self, given: int | None, steps: int) -> int:
        """Steps between two of what is done so often."""
        return given or min(OFTEN, max(1, steps // 10))


def asked_of_losses(parameters: ShearedLlamaParameters) -> dict[str, str]:
    """Rows of the same length."""
    return {"SEQLEN": str(parameters.seqlen)} if parameters.seqlen else {}


def _unroll(parameters: ShearedLlamaParameters, config: Mapping[str, Any]) -> Unrolled:
    """The one pruning, checked before anything is computed, with TARGET read into its sizes.

    So a file counts by what it says, and is not needed where the stage runs.

    Raises:
        InputError: there is no such target of a parent with this config.json.
    """
    found = parameters.model_copy(update={"target": None, **asdict(parameters.sizes())})
    if not config:
        return Unrolled((found,))
    return Unrolled((found,), configs=(sized(config, found.aim(Shapes.of(config)).shapes),))


def _estimate(parameters: ShearedLlamaParameters, config: Mapping[str, Any]) -> Estimate:
    shapes = Shapes.of(config)
    seqlen = parameters.length(shapes.positions)
    micro = min(parameters.micro(seqlen), parameters.batch) * seqlen
    width = 14 * shapes.hidden + 5 * shapes.intermediate
    whole = 1 if parameters.recompute else shapes.layers  # layers whose activations are there
    kept = whole * width + (shapes.layers - whole) * shapes.hidden
    activations = 4 * micro * (kept + 4 * shapes.vocabulary)
    flops = training_flops(shapes, seqlen)
    work = parameters.steps(seqlen) * parameters.batch * seqlen * flops
    states = 3 * 12 * shapes.parameters
    if steps := parameters.steps_of_recovery(seqlen):
        left = parameters.aim(shapes).shapes
        work += steps * parameters.rows_of_recovery * seqlen * training_flops(left, seqlen)
        states += 3 * 12 * left.parameters
    products = work / CPU_FLOPS
    return Estimate(
        memory=PROCESS_BYTES + STATE_BYTES * shapes.parameters + activations,
        disk=states + shapes.parameters * shapes.item_bytes,
        seconds=30 + products,
        products=products,
    )


def _estimate_losses(parameters: DomainLossParameters, config: Mapping[str, Any]) -> Estimate:
    shapes = Shapes.of(config)
    seqlen = parameters.length(shapes.positions)
    micro = parameters.micro(seqlen) * seqlen
    products = 7 * parameters.valid * seqlen * forward_flops(shapes, seqlen) / CPU_FLOPS
    return Estimate(
        memory=PROCESS_BYTES + 4 * shapes.parameters + 12 * micro * shapes.vocabulary,
        disk=1 << 20,
        seconds=20 + products,
        products=products,
    )


STAGES = (
    Stage(
        name="score-sheared-llama",
        verb="score",
        section="scores",
        image="sheared-llama",
        parameters=DomainLossParameters,
        entry="methods.sheared_llama.loss_stage:run",
        summary="Measure a model's loss on held-out rows of each domain.",
        inputs={"model": True, "domains": True},
        estimate=_estimate_losses,
        saved=None,
    ),
    Stage(
        name="sheared-llama",
        verb="prune",
        section="checkpoints",
        image="sheared-llama",
        parameters=ShearedLlamaParameters,
        entry="methods.sheared_llama.stage:run",
        join="methods.sheared_llama.stage:join",
        summary="Learn masks to a target shape while training, with data loaded by domain.",
        inputs={"model": True, "domains": True, "losses": False},
        estimate=_estimate,
        derived={"losses": Derived("score-sheared-llama", asked_of_losses)},
        unroll=_unroll,
        saved="methods.sheared_llama.saved:last_step",
    ),
)
