"""A tiny random checkpoint with a tokenizer, and token ids for it: what the tests prune."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.tiny_tokenizer import SHAPE, tokenizer
from tests.unit.tiny_checkpoints import make_checkpoint

__all__ = ["SHAPE", "tiny_llama", "token_rows", "tokenizer"]


def tiny_llama(directory: Path, **changes: Any) -> Path:
    """A random Llama in `directory`, float32, with a tokenizer that fits it."""
    make_checkpoint(directory, **{**SHAPE, **changes})
    tokenizer().save_pretrained(directory)
    return directory


def token_rows(path: Path, rows: int = 8, width: int = 64, seed: int = 0) -> Path:
    """Random `input_ids` int32 [rows, width] in a safetensors file."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, SHAPE["vocab_size"], (rows, width), generator=generator)
    save_file({"input_ids": ids.to(torch.int32)}, path)
    return path
