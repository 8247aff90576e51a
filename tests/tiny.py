"""A tiny random checkpoint with a tokenizer, and token ids for it: what the tests prune."""

import functools
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.unit.tiny_checkpoints import make_checkpoint

SHAPE: dict[str, Any] = {
    "vocab_size": 288,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with every byte and the special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"],
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


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
