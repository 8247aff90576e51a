"""The stage `export`: token data as Parquet, Arrow, ArrayRecord or MDS."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage

Format = Literal["parquet", "arrow", "arrayrecord", "mds"]


class ExportParameters(Parameters):
    """Which files, and what a row of them is."""

    format: Annotated[Format, Field(description="parquet, arrow, arrayrecord or mds")] = "parquet"
    seqlen: Annotated[int, Field(ge=0, description="tokens a row; 0: a document a row")] = 0
    targets: Annotated[
        bool, Field(description="a row of SEQLEN has the token after it too, its last one's target")
    ] = False

    @model_validator(mode="after")
    def _rows_have_a_length(self) -> Self:
        if self.targets and not self.seqlen:
            raise ValueError("TARGETS=1 is for rows of equal length; give SEQLEN")
        return self

    def label(self) -> str:
        """The format, and the rows' length where they have one."""
        length = f"-{self.seqlen}" if self.seqlen else ""
        return f"{self.format}{length}{'-targets' if self.targets else ''}"


STAGE = Stage(
    name="export",
    verb="export",
    section="data",
    image="export",
    parameters=ExportParameters,
    entry="inputs.export.stage:run",
    on_device=False,
    summary="write token data as Parquet, Arrow, ArrayRecord or MDS",
    inputs={"data": True},
    saved=None,
)
