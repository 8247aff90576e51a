"""The stage `export`: token data as Parquet, Arrow, ArrayRecord or MDS."""

from typing import Annotated, Literal

from pydantic import Field

from espalier.parameters import Parameters
from espalier.stage import Stage

Format = Literal["parquet", "arrow", "arrayrecord", "mds"]


class ExportParameters(Parameters):
    """Which files, and what a row of them is."""

    format: Annotated[Format, Field(description="parquet, arrow, arrayrecord or mds")] = "parquet"
    seqlen: Annotated[int, Field(ge=0, description="tokens a row; 0: a document a row")] = 0

    def label(self) -> str:
        """The format, and the rows' length where they have one."""
        return f"{self.format}-{self.seqlen}" if self.seqlen else self.format


STAGE = Stage(
    name="export",
    verb="export",
    section="data",
    image="export",
    parameters=ExportParameters,
    entry="training.export.stage:run",
    summary="write token data as Parquet, Arrow, ArrayRecord or MDS",
    inputs={"data": True},
)
