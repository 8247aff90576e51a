"""Parameters that every method with calibration has. Needs no torch."""

from typing import Annotated

from pydantic import Field

from espalier.contract.parameters import CalibrationParameters, Optional, SparsityParameters


class CalibratedPruning(SparsityParameters, CalibrationParameters):
    """Sparsity, calibration, and how many samples a forward pass takes."""

    batch: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Optional,
        Field(description="samples a pass; default 2048 tokens' worth; decides speed only"),
    ] = None


BATCH_TOKENS = 2048
"""Tokens a batch holds by default: enough to feed the kernels, little beside a layer."""


def default_batch(tokens: int) -> int:
    """Samples of `tokens` tokens that make a batch."""
    return max(1, BATCH_TOKENS // tokens)
