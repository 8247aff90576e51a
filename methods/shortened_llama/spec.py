"""What the host knows of Shortened-LLaMA."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from espalier.contract.parameters import Optional, Seed
from espalier.contract.stage import Derived, Estimate, Stage, Unrolled
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.depth.cuts import cuts_of
from espalier.pruning.estimate import (
    Tokens,
    estimate_copying,
    estimate_cuts,
    estimate_forward,
    estimate_weights_only,
)
from espalier.pruning.parameters import CalibrationParameters, Reference
from espalier.pruning.structured.parameters import LayersLeft
from espalier.pruning.structured.unroll import unroll
from methods.shortened_llama.protection import Protect, require_removable

Importance = Literal["ppl", "taylor", "magnitude"]
OF_TOKENS = ("SAMPLES", "SEQLEN", "SEED", "BATCH")


class BlockScoreParameters(CalibrationParameters):
    """By what blocks are scored, and the tokens for it."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"batch"})

    importance: Annotated[
        Importance,
        Field(description="perplexity without the block; or of its weights |w x dL/dw| or |w|"),
    ] = "ppl"
    norm: Annotated[
        Literal["l1", "l2"] | None,
        Optional,
        Field(description="of taylor and magnitude: sums of values or of squares; default l1"),
    ] = None
    samples: Annotated[int, Field(ge=1, description="calibration sequences")] = 10
    seqlen: Annotated[
        Annotated[int, Field(ge=2)] | None, Optional, Field(description="tokens a sequence")
    ] = 128
    seed: Seed = 1234
    batch: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Optional,
        Field(description="samples a pass; default 2048 tokens' worth; speed and rounding"),
    ] = None

    @classmethod
    def from_assignments(cls, assignments: dict[str, str]) -> Self:
        """As every stage's, and nothing is given that has no use.

        Raises:
            InputError: a word does not hold, or the criterion has no use for it.
        """
        found, given = super().from_assignments(assignments), assignments.keys()
        useless = [word for word in OF_TOKENS if word in given]
        if found.importance == "magnitude" and useless:
            raise InputError(
                f"IMPORTANCE=magnitude uses no tokens; leave out {', '.join(useless)}."
            )
        return found

    @model_validator(mode="after")
    def _norm_is_of_weights(self) -> Self:
        if self.importance == "ppl" and self.norm:
            raise InputError(
                f"NORM={self.norm} is of weights and IMPORTANCE=ppl looks at none; leave NORM out, "
                "or give IMPORTANCE=taylor or magnitude."
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What is fingerprinted: the norm that is taken, given or not."""
        return {**super().identity(), "norm": self.taken_norm}

    @property
    def taken_norm(self) -> Literal["l1", "l2"] | None:
        """None where weights are not looked at."""
        return None if self.importance == "ppl" else self.norm or "l1"

    def unused(self) -> frozenset[str]:
        """Magnitudes need no text."""
        return frozenset({"calibration"} if self.importance == "magnitude" else ())

    def label(self) -> str:
        """`ppl-10x128`, `taylor-l1-10x128`, `magnitude-l2`."""
        tokens = f"{self.samples}x{self.seqlen or 'model'}"
        tokens = "" if self.importance == "magnitude" else tokens
        return "-".join(filter(None, (self.importance, self.taken_norm, tokens)))


class ShortenedLlamaParameters(LayersLeft):
    """How many blocks are kept, and which ones in any case."""

    protect: Annotated[
        Protect,
        Field(
            description="blocks that stay: the published first 4 and last 2, scaled down for fewer "
            "than 32 layers, as published, or none"
        ),
    ] = "scaled"
    reference: Reference = False

    @model_validator(mode="before")
    @classmethod
    def _reference_is_published(cls, values: Any) -> Any:
        if isinstance(values, dict) and not {"PROTECT", "protect"} & values.keys():
            quirks = str(values.get("REFERENCE", values.get("reference", ""))).lower()
            if quirks in ("1", "true"):
                return {**values, "PROTECT": "published"}
        return values

    def removals(self, layers: int) -> int:
        """How many blocks go of a model of `layers`.

        Raises:
            InputError: fewer may.
        """
        count = layers - (self.layers or layers)
        if not self.reference:
            require_removable(layers, count, self.protect)
        return count

    def label(self) -> str:
        """`26`, `26-published`, `26-published-reference`."""
        rules = (
            "" if self.protect == "scaled" else self.protect.replace("none", "unprotected"),
            "reference" if self.reference else "",
        )
        return "-".join(filter(None, (super().label(), *rules)))


def estimate_scores(parameters: BlockScoreParameters, config: Mapping[str, Any]) -> Estimate:
    """A walk for all cuts; forwards and back; or the weights alone."""
    if parameters.importance == "magnitude":
        return estimate_weights_only(config)
    shapes = Shapes.of(config)
    tokens = Tokens.of(parameters.samples, parameters.seqlen, parameters.batch, shapes)
    if parameters.importance == "ppl":
        return estimate_cuts(config, tokens, cuts_of(shapes.layers, [1]))
    # Forwards, and again backwards with twice the products; all in float32.
    estimate = estimate_forward(config, tokens, 3, 4 * shapes.layers, 4)
    states = 4 * tokens.count * shapes.hidden * (shapes.layers + 1)
    layer = 4 * shapes.layer_parameters
    return replace(estimate, memory=estimate.memory + 5 * layer, disk=estimate.disk + states)


def unroll_where_removable(
    parameters: ShortenedLlamaParameters, config: Mapping[str, Any]
) -> Unrolled:
    """As every shape's; what may not go is refused before anything is measured.

    Raises:
        InputError: the shape cannot be reached, or protected blocks would have to go.
    """
    found = unroll(parameters, config)
    for step, parent in zip(found.steps, [config, *found.configs], strict=False):
        if parent:
            step.removals(Shapes.of(parent).layers)  # type: ignore[attr-defined]
    return found


STAGES = (
    Stage(
        name="score-shortened-llama",
        verb="score",
        section="scores",
        image="minitron",
        parameters=BlockScoreParameters,
        entry="methods.shortened_llama.score_stage:run",
        summary="Score each block by perplexity without it, by Taylor or by magnitude.",
        inputs={"model": True, "calibration": False},
        estimate=estimate_scores,
    ),
    Stage(
        name="shortened-llama",
        verb="prune",
        section="checkpoints",
        image="minitron",
        parameters=ShortenedLlamaParameters,
        entry="methods.shortened_llama.stage:run",
        summary="Remove the blocks of least score at once.",
        inputs={"model": True, "scores": True},
        estimate=estimate_copying,
        derived={"scores": Derived("score-shortened-llama")},
        unroll=unroll_where_removable,
    ),
)
