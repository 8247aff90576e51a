"""How long a run is that is planned, and whose data may not be there."""

from pathlib import Path

from espalier.contract.manifest import MANIFEST, read_manifest
from espalier.data.tokens import is_token_data
from espalier.data.tokens.reader import TokenData
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from training.protocol.budget import Budget
from training.protocol.planned import PlannedParameters

NOWHERE = Path("/nonexistent")
"""Of the weights, the tokenizer and the data of a run that is only planned."""


def planned_budget(parameters: PlannedParameters, data: Path | None) -> tuple[Budget, int | None]:
    """The run's steps, and its tokens; of one step, and None, where neither TOKENS nor DATA say.

    Raises:
        InputError: the sizes do not go together.
    """
    seqlen = parameters.sequence_length(Shapes.of(parameters.config).positions)
    known = data is not None or parameters.tokens is not None
    step = parameters.batch * seqlen
    tokens = parameters.tokens if known else step
    available = _tokens_of(data, seqlen) if data else (tokens or 0) + step + 1
    budget = Budget.of(
        tokens=tokens,
        epochs=parameters.epochs if data else None,
        batch=parameters.batch,
        seqlen=seqlen,
        available=available,
    )
    return budget, budget.tokens if known else None


def _tokens_of(data: Path, seqlen: int) -> int:
    """Of the train split of token data, or of their export as rows of `seqlen`.

    Raises:
        InputError: its rows have another length, or it is neither.
    """
    if is_token_data(data) or not (data / MANIFEST).is_file():
        return TokenData(data).counts("train")[0]
    manifest = read_manifest(data)
    rows = (manifest.data or {}).get("rows", {}).get("train")
    if rows is None or manifest.parameters.get("seqlen") != seqlen:
        known = manifest.parameters.get("seqlen") if rows is not None else None
        which = f"give SEQLEN={known}, which they have" if known else "give another SEQLEN"
        raise InputError(
            f"{data} has no rows of {seqlen} tokens; {which}, or token data of make data."
        )
    return int(rows) * seqlen + 1
