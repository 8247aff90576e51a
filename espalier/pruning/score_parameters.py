"""What every scoring stage is told. Needs no torch."""

from typing import Annotated

from pydantic import Field

from espalier.contract.parameters import Optional, Parameters


class WindowParameters(Parameters):
    """Windows of tokens, and how many pass at a time."""

    seqlen: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Optional,
        Field(description="tokens a window; default min(model's positions, 2048)"),
    ] = None
    batch: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Optional,
        Field(description="windows a pass; default 2048 tokens' worth; decides speed only"),
    ] = None


class ScoreParameters(WindowParameters):
    """The tokens that scores are measured on: windows from the start of the text, not drawn."""

    samples: Annotated[int, Field(ge=1, description="windows of the text, at most")] = 128

    def label(self) -> str:
        """`128` or `128x512`."""
        return f"{self.samples}x{self.seqlen}" if self.seqlen else str(self.samples)
