"""Parameters that pruning and scoring stages share. Needs no torch."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from espalier.contract.parameters import Optional, Parameters, Seed
from espalier.contract.pattern import Pattern
from espalier.errors import InputError

Reference = Annotated[
    bool, Field(description="repeat the quirks of the reference implementation, for parity")
]


class CalibrationParameters(Parameters):
    """Which tokens a method sees. `samples` and `seqlen` of a ready .safetensors are its own."""

    samples: Annotated[int, Field(ge=1, description="calibration sequences")] = 128
    seqlen: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Optional,
        Field(description="tokens a sequence; default min(model's positions, 2048)"),
    ] = None
    seed: Seed = 0


class SparsityParameters(Parameters):
    """How much is removed, and in which pattern."""

    sparsity: Annotated[float, Field(gt=0, lt=1, description="fraction removed")] = 0.5
    pattern: Annotated[str, Field(description="unstructured or N:M (N of M zeroed)")] = (
        "unstructured"
    )

    @model_validator(mode="before")
    @classmethod
    def _sparsity_follows_pattern(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        text = str(values.get("PATTERN", values.get("pattern", "unstructured")))
        pattern = Pattern.parse(text)
        given = values.get("SPARSITY", values.get("sparsity"))
        if pattern.structured:
            if given is not None and not abs(float(given) - pattern.sparsity) <= 1e-9:
                raise InputError(
                    f"SPARSITY={given} contradicts PATTERN={pattern}, which removes "
                    f"{pattern.sparsity:g}; leave SPARSITY out."
                )
            values = {k: v for k, v in values.items() if k.lower() != "sparsity"}
            values["SPARSITY"] = pattern.sparsity
        return values

    def label(self) -> str:
        """`0.5`, or `2of4` for an N:M pattern."""
        return self.pattern.replace(":", "of") if ":" in self.pattern else f"{self.sparsity:g}"

    @property
    def mask_pattern(self) -> Pattern:
        return Pattern.parse(self.pattern)


class CalibratedPruning(SparsityParameters, CalibrationParameters):
    """Sparsity, calibration, and how many samples a forward pass takes."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"batch"})

    batch: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Optional,
        Field(description="samples a pass; default 2048 tokens' worth; speed and rounding"),
    ] = None


class ShortWindowParameters(CalibrationParameters):
    """Drawn windows of 128 tokens, with which the published structured prunings are calibrated."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"batch"})

    seqlen: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Optional,
        Field(description="tokens a sequence; default 128, or the width of a .safetensors"),
    ] = None
    batch: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Optional,
        Field(description="samples a pass; default 2048 tokens' worth; speed and rounding"),
    ] = None


SHORT_WINDOW = 128
"""Tokens of theirs."""


class WindowParameters(Parameters):
    """Windows of tokens, and how many pass at a time."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"batch"})

    seqlen: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Optional,
        Field(description="tokens a window; default min(model's positions, 2048)"),
    ] = None
    batch: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Optional,
        Field(description="windows a pass; default 2048 tokens' worth; speed and rounding"),
    ] = None


class ScoreParameters(WindowParameters):
    """The tokens that scores are measured on: windows from the start of the text, not drawn."""

    samples: Annotated[int, Field(ge=1, description="windows of the text, at most")] = 128

    def label(self) -> str:
        """`128` or `128x512`."""
        return f"{self.samples}x{self.seqlen}" if self.seqlen else str(self.samples)


BATCH_TOKENS = 2048
"""Tokens a batch holds by default: enough to feed the kernels, little beside a layer."""


def default_batch(tokens: int) -> int:
    """Samples of `tokens` tokens that make a batch."""
    return max(1, BATCH_TOKENS // tokens)
