"""A model's limits and its tokenizer, and token ids kept in a file, as text stages need them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from espalier.errors import InputError

if TYPE_CHECKING:
    import torch

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
            config = json.loads(path.read_text())
            return cls(int(config["max_position_embeddings"]), int(config["vocab_size"]))
        except (OSError, ValueError, KeyError, TypeError):
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
        InputError: the file cannot be read or holds no such tensor.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            if "input_ids" not in file.keys():  # noqa: SIM118 - not a dict
                raise InputError(f"{path} holds no input_ids; give int [samples, tokens] there.")
            ids: torch.Tensor = file.get_tensor("input_ids")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a whole .safetensors file ({error}); write it again."
        ) from None
    if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex() or ids.numel() == 0:
        raise InputError(
            f"{path}: input_ids is {ids.dtype} {list(ids.shape)}; give int [samples, tokens]."
        )
    return ids.to(torch.int64).contiguous()


def check_ids(ids: "torch.Tensor", limits: ModelLimits, source: Path) -> None:
    """Refuse ids (int64, any shape) that the model has no embedding for.

    Raises:
        InputError: an id is out of the vocabulary.
    """
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= limits.vocabulary:
        raise InputError(
            f"{source} gives token ids {low} to {high}, but the model's vocabulary ends at "
            f"{limits.vocabulary - 1}; use ids of this model's own tokenizer."
        )


def sha256_of_ids(ids: "torch.Tensor") -> str:
    """Hexadecimal SHA-256 of int64 ids, row after row, little-endian."""
    return hashlib.sha256(ids.contiguous().numpy().astype("<i8").tobytes()).hexdigest()
