"""What a model has cost: tokens and FLOPs of its pretraining, its pruning, its training.

Two arms of a study can be compared at equal tokens or at equal FLOPs only where both are known of
all that lies behind them; what is not known stays None and is never counted as nothing.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict


class Entry(BaseModel):
    """One line of the account.

    Attributes:
        tokens: that the model was trained or calibrated on; None: not known.
        flops: those of the model itself, without what is computed twice to save memory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["pretraining", "pruning", "training"]
    stage: str
    name: str
    tokens: int | None = None
    flops: float | None = None


class Total(BaseModel):
    """Sums over an account; None where a line of it is not known."""

    tokens: int | None
    flops: float | None

    @classmethod
    def of(cls, account: list[Entry]) -> Self:
        """Tokens trained on (calibration is no training) and FLOPs of every line."""
        tokens = [entry.tokens for entry in account if entry.kind != "pruning"]
        flops = [entry.flops for entry in account]
        return cls(
            tokens=None if None in tokens else sum(t for t in tokens if t is not None),
            flops=None if None in flops else sum(f for f in flops if f is not None),
        )
