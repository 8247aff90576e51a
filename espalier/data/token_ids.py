"""A model's limits and its tokenizer, and token ids kept in a file, as text stages need them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.errors import InputError
from espalier.models.shapes import config_file, count_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MASK = "attention_mask"
WHOLE_NUMBERS = frozenset({"I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64"})
"""As a .safetensors calls them; true and false are none."""
DEFAULT_SEQLEN = 2048
"""The field's window; a model's own limit may be far above what fits in memory."""


@dataclass(frozen=True)
class ModelLimits:
    """What a model can be fed: `positions` tokens a window, ids below `vocabulary`."""

    positions: int
    vocabulary: int

    @classmethod
    def of(cls, model: Path) -> "ModelLimits":
        """Read them from the model's config.json.

        Raises:
            InputError: there is no usable config.json.
        """
        path = model / "config.json"
        try:
            config = config_file(path)
            sizes = (count_in(config, key) for key in ("max_position_embeddings", "vocab_size"))
            return cls(*sizes)
        except InputError:
            raise InputError(
                f"{path} is missing or names no max_position_embeddings and vocab_size; "
                "give a Hugging Face model directory."
            ) from None

    def window(self, seqlen: int | None) -> int:
        """Tokens a window: `seqlen`, or min(positions, 2048).

        Raises:
            InputError: `seqlen` is above the model's positions.
        """
        if seqlen is None:
            return min(self.positions, DEFAULT_SEQLEN)
        if seqlen > self.positions:
            raise InputError(
                f"SEQLEN={seqlen} is above the model's {self.positions} positions; "
                f"give SEQLEN={self.positions} or less."
            )
        return seqlen


def read_input_ids(path: Path) -> "NDArray[np.int64]":
    """Token ids in a .safetensors: tensor `input_ids`, int64 [rows, tokens].

    Raises:
        InputError: the file cannot be read, holds no such tensor of whole numbers, or masks some.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            if "input_ids" not in names:
                raise InputError(f"{path} holds no input_ids; give int [samples, tokens] there.")
            about = file.get_slice("input_ids")
            dtype, shape = about.get_dtype(), about.get_shape()
            if len(shape) != 2 or dtype not in WHOLE_NUMBERS or 0 in shape:
                raise InputError(
                    f"{path}: input_ids is {dtype} {shape}; give int [samples, tokens]."
                )
            ids: NDArray[Any] = file.get_tensor("input_ids")
            mask = file.get_tensor(MASK) if MASK in names else None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a whole .safetensors file ({error}); write it again."
        ) from None
    if mask is not None:
        _check_mask(mask, ids, path)
    return _signed(ids, path)


def check_ids(ids: "NDArray[np.int64]", limits: ModelLimits, source: Path) -> None:
    """Refuse ids (int64 [rows, tokens]) that the model has no embedding for.

    Raises:
        InputError: an id is out of the vocabulary; the first is named with its place.
    """
    wrong = _first((ids < 0) | (ids >= limits.vocabulary))
    if wrong:
        row, token = wrong
        raise InputError(
            f"{source} gives token id {int(ids[row, token])} (row {row + 1}, token {token + 1}), "
            f"but the model's vocabulary ends at {limits.vocabulary - 1}; use ids of this model's "
            "own tokenizer."
        )


def require_rows(ids: Sequence[int], rows: int, text: str) -> None:
    """Refuse a text one of whose `ids` is beyond the `rows` of the embedding.

    Raises:
        InputError: it is.
    """
    if ids and max(ids) >= rows:
        raise InputError(
            f"{text[:40]!r} has token id {max(ids)} and the embedding has {rows} rows; take what "
            "spells out that token out of the text."
        )


def _signed(ids: "NDArray[Any]", path: Path) -> "NDArray[np.int64]":
    """As int64, which holds every id that there is."""
    signed: NDArray[np.int64] = ids.astype("int64")
    if ids.dtype.kind == "u" and signed.min() < 0:
        raise InputError(f"{path}: input_ids holds numbers above 2^63; give token ids.")
    return signed


def _check_mask(mask: "NDArray[Any]", ids: "NDArray[Any]", path: Path) -> None:
    """Rows are used whole, so a mask has to say so."""
    if mask.shape != ids.shape:
        raise InputError(
            f"{path}: {MASK} is {list(mask.shape)} where input_ids is {list(ids.shape)}; write "
            "rows without padding, and no mask."
        )
    masked = _first(mask == 0)
    if masked:
        row, token = masked
        raise InputError(
            f"{path}: {MASK} leaves out tokens (the first: row {row + 1}, token {token + 1}), and "
            "every token of a row is used; write rows without padding, and no mask."
        )


def _first(where: "NDArray[np.bool_]") -> tuple[int, int] | None:
    """The first place, row and column, at which something holds."""
    rows, columns = where.nonzero()
    return (int(rows[0]), int(columns[0])) if len(rows) else None


def sha256_of_ids(ids: "NDArray[np.int64]") -> str:
    """Hexadecimal SHA-256 of int64 ids, row after row, little-endian."""
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()
