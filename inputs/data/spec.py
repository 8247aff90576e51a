"""The stage `data`: a text and a tokenizer to token data."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from espalier.contract.parameters import Count, Parameters
from espalier.contract.stage import Estimate, Stage

Fraction = Annotated[float, Field(ge=0, lt=1)]
TOKENS_PER_SECOND = 400_000
BYTES_PER_TOKEN = 4


class DataParameters(Parameters):
    """How much of the text is packed, and how it is split."""

    tokens: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Count,
        Field(description="training tokens, such as 1B; default all"),
    ] = None
    valid: Annotated[Fraction, Field(description="fraction of documents for valid")] = 0.005
    test: Annotated[Fraction, Field(description="fraction of documents for test")] = 0.005
    shard: Annotated[
        int, Field(ge=1), Count, Field(description="tokens of a shard at most, such as 100M")
    ] = 100_000_000
    column: Annotated[
        str, Field(min_length=1, description="where .jsonl, .json and .parquet hold text")
    ] = "text"
    skip_bad: Annotated[
        bool, Field(description="leave out and count documents that cannot be used")
    ] = False

    domains: Annotated[
        bool,
        Field(
            description="each folder or file in SOURCE is a domain with token data of its own; "
            "TOKENS are then of each"
        ),
    ] = False

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError("VALID and TEST leave nothing for training; lower them")
        return self

    def label(self) -> str:
        """Whether there are several domains."""
        return "domains" if self.domains else ""


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate | None:
    if not parameters.tokens or parameters.domains:  # how many there are, the folder says
        return None
    disk = round(parameters.tokens * BYTES_PER_TOKEN * 1.02)
    seconds = 5 + parameters.tokens / TOKENS_PER_SECOND
    return Estimate(memory=1 << 30, disk=disk, seconds=seconds)


STAGE = Stage(
    name="data",
    verb="data",
    section="data",
    image="eval",
    parameters=DataParameters,
    entry="inputs.data.stage:run",
    on_device=False,
    summary="tokenise a text, split it by document and pack it for training",
    inputs={"text": True, "tokenizer": True},
    estimate=_estimate,
)
