"""The stage `export`: token data as Parquet or Arrow."""

from typing import Annotated, Literal

from pydantic import Field

from espalier.parameters import Parameters
from espalier.stage import Stage


class ExportParameters(Parameters):
    """Which files."""

    format: Annotated[Literal["parquet", "arrow"], Field(description="parquet or arrow")] = (
        "parquet"
    )

    def label(self) -> str:
        """The format."""
        return self.format


STAGE = Stage(
    name="export",
    verb="export",
    section="data",
    image="eval",
    parameters=ExportParameters,
    entry="training.export.stage:run",
    summary="write token data as Parquet or Arrow, a document a row",
    inputs={"data": True},
)
