"""What a model has cost: tokens and FLOPs of its pretraining, its pruning, its training.

Two arms of a study can be compared at equal tokens or at equal FLOPs only where both are known of
all that lies behind them; what is not known stays None and is never counted as nothing.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from espalier.contract.stage import Outcome

FORWARD, TRAINING = 2, 6
"""FLOPs a parameter and token (Kaplan et al., 2020, arXiv 2001.08361, section 2.1)."""


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

    @classmethod
    def of(
        cls, stage: str, name: str, model: dict[str, Any], outcome: Outcome, measured: int = 0
    ) -> list[Self]:
        """The line of a stage that made a model.

        `measured` are tokens of scores that a pruning went by: one pass of the parent each, a depth
        search's further passes aside.
        """
        if outcome.training is not None:
            counted = {key: outcome.training[key] for key in ("tokens", "flops")}
            return [cls(kind="training", stage=stage, name=name, **counted)]
        if outcome.pruning is not None:
            data = outcome.data or {}
            read = int(data.get("samples", 0)) * int(data.get("seqlen", 0)) + measured
            parameters = model.get("parent_parameters") or model["parameters"]
            cost = float(FORWARD * parameters * read)
            return [cls(kind="pruning", stage=stage, name=name, tokens=read, flops=cost)]
        if stage in ("fetch", "fetch-package", "adopt"):
            known = outcome.notes.get("pretraining_tokens")
            tokens = int(known) if known else None
            flops = float(TRAINING * model["parameters"] * tokens) if tokens else None
            return [cls(kind="pretraining", stage=stage, name=name, tokens=tokens, flops=flops)]
        return []


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
