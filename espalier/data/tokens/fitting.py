"""Whether a model can read token ids, whatever files they are in."""

from pathlib import Path

from espalier.errors import InputError
from espalier.models.tokenizer import require_same_tokenizer


def check_fit(data: Path, tokenizer: str, vocabulary: int, model: Path, rows: int) -> None:
    """Refuse ids that a model cannot read.

    Args:
        data: where they are.
        tokenizer: the hash of the one that made them.
        vocabulary: they are below it.
        model: a directory with a tokenizer.
        rows: of the model's embedding.

    Raises:
        InputError: another tokenizer made them, or there may be some beyond the model's rows.
    """
    require_same_tokenizer(data, tokenizer, model)
    if vocabulary > rows:
        raise InputError(
            f"{data} has tokens up to {vocabulary} and the vocabulary of {model} ends at {rows}; "
            "make the data with its own tokenizer."
        )
