"""A model's limits and its tokenizer, and token ids kept in a file, as text stages need them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from espalier.errors import InputError
from espalier.models.shapes import config_file, count_in

if TYPE_CHECKING:
    import torch

MASK = "attention_mask"
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


def read_input_ids(path: Path) -> "torch.Tensor":
    """Token ids in a .safetensors: tensor `input_ids`, int64 [rows, tokens].

    Raises:
        InputError: the file cannot be read, holds no such tensor of whole numbers, or masks some.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            if "input_ids" not in names:
                raise InputError(f"{path} holds no input_ids; give int [samples, tokens] there.")
            ids: torch.Tensor = file.get_tensor("input_ids")
            mask = file.get_tensor(MASK) if MASK in names else None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a whole .safetensors file ({error}); write it again."
        ) from None
    if ids.ndim != 2 or not _counts(ids) or ids.numel() == 0:
        raise InputError(
            f"{path}: input_ids is {ids.dtype} {list(ids.shape)}; give int [samples, tokens]."
        )
    if mask is not None:
        _check_mask(mask, ids, path)
    return _signed(ids, path)


def check_ids(ids: "torch.Tensor", limits: ModelLimits, source: Path) -> None:
    """Refuse ids (int64 [rows, tokens]) that the model has no embedding for.

    Raises:
        InputError: an id is out of the vocabulary; the first is named with its place.
    """
    wrong = ((ids < 0) | (ids >= limits.vocabulary)).nonzero()
    if len(wrong):
        row, token = wrong[0].tolist()
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


def _counts(ids: "torch.Tensor") -> bool:
    """Whether a tensor is of whole numbers; true and false are none."""
    import torch

    return ids.dtype != torch.bool and not ids.is_floating_point() and not ids.is_complex()


def _signed(ids: "torch.Tensor", path: Path) -> "torch.Tensor":
    """As int64, which holds every id that there is."""
    import torch

    signed = ids.to(torch.int64).contiguous()
    if signed.min() < 0 and not ids.dtype.is_signed:
        raise InputError(f"{path}: input_ids holds numbers above 2^63; give token ids.")
    return signed


def _check_mask(mask: "torch.Tensor", ids: "torch.Tensor", path: Path) -> None:
    """Rows are used whole, so a mask has to say so."""
    if mask.shape != ids.shape:
        raise InputError(
            f"{path}: {MASK} is {list(mask.shape)} where input_ids is {list(ids.shape)}; write "
            "rows without padding, and no mask."
        )
    masked = (mask == 0).nonzero()
    if len(masked):
        row, token = masked[0].tolist()
        raise InputError(
            f"{path}: {MASK} leaves out tokens (the first: row {row + 1}, token {token + 1}), and "
            "every token of a row is used; write rows without padding, and no mask."
        )


def sha256_of_ids(ids: "torch.Tensor") -> str:
    """Hexadecimal SHA-256 of int64 ids, row after row, little-endian."""
    return hashlib.sha256(ids.contiguous().numpy().astype("<i8").tobytes()).hexdigest()
