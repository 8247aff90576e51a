"""What can be checked and said of a foreign checkpoint without knowing its layers."""

import math
from pathlib import Path
from typing import Any

import torch

from espalier.errors import InputError
from espalier.models.adapter import dtype_name
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.shapes import SUPPORTED, read_config
from espalier.models.tokenizer import check_tokenizer, tokenizer_hash, tokens_without_row


def check_foreign(directory: Path) -> dict[str, Any]:
    """Index complete, every weight finite, tokenizer within the vocabulary, a family of its own.

    A finite loss is for the stage to check, whose image has the loader.

    Raises:
        InputError: naming the first check that failed.
    """
    config, reader = read_config(directory), CheckpointReader(directory)
    if config.get("model_type") in SUPPORTED:
        raise InputError(
            f"{directory} is of a foreign form and config.json calls it {config['model_type']}, "
            "which stock loaders would misread; give it a model_type of its own."
        )
    check_tokenizer(directory, int(config["vocab_size"]))
    for name in reader.entries:
        for _ in reader.blocks(name):
            pass  # reading is checking
    fits = not tokens_without_row(directory)
    return {"index_complete": True, "finite": True, "tokenizer_fits": fits}


def describe_foreign(directory: Path) -> dict[str, Any]:
    """The manifest's model section, as far as every model has one."""
    config, reader = read_config(directory), CheckpointReader(directory)
    parameters = sum(math.prod(entry.shape) for entry in reader.entries.values())
    nonzero = sum(
        int(torch.count_nonzero(block)) for name in reader.entries for block in reader.blocks(name)
    )
    return {
        "model_type": config["model_type"],
        "dtype": dtype_name(next(iter(reader.entries.values())).dtype),
        "parameters": parameters,
        "nonzero": nonzero,
        "tokenizer": tokenizer_hash(directory),
    }
