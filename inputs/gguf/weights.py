"""The weights of a GGUF file, dequantized and in the stock model's order, into safetensors."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espalier.contract.progress import Progress
from espalier.errors import InputError
from espalier.models.adapter import HEAD, Architecture
from espalier.models.checkpoint.header import TensorSpec
from espalier.models.checkpoint.shards import ShardWriter
from inputs.gguf.family import family_of, stock_names
from inputs.gguf.file import GgufFile

BLOCK_ENTRIES = 1 << 24
"""Weights that are dequantized at once: 64 MiB of float32."""
STORED_AS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def planned(file: GgufFile, config: Mapping[str, Any]) -> dict[str, str]:
    """From the stock model's names to the file's, which agree with `config` in every shape.

    Raises:
        InputError: a tensor is missing, unknown, of another shape or type; nothing is written.
    """
    names, expected = stock_names(file), Architecture(config).expected_shapes()
    for name, shape in expected.items():
        if name not in names:
            if name == HEAD and config["tie_word_embeddings"]:
                continue
            raise InputError(f"{file.path.name} lacks the tensor of {name}; download it again.")
        if file.shape(names[name]) != shape:
            raise InputError(
                f"{names[name]} of {file.path.name} has shape {list(file.shape(names[name]))} "
                f"where its sizes ask for {list(shape)}; convert the model to GGUF again."
            )
    if unknown := names.keys() - expected.keys():
        raise InputError(
            f"{file.path.name} holds {names[min(unknown)]}, which no stock {file.architecture} of "
            "its sizes has; it cannot be adopted."
        )
    file.check_readable()
    return {name: names[name] for name in expected if name in names}


def write_weights(
    file: GgufFile, config: Mapping[str, Any], output: Path, progress: Progress
) -> None:
    """Write the weights in `config`'s dtype, a block of rows at a time; resumes after a kill.

    Raises:
        InputError: as `planned`.
        EnvironmentFailure: the disk is full or cannot be written.
    """
    names, dtype = planned(file, config), str(config["torch_dtype"])
    specs = [TensorSpec(name, STORED_AS[dtype], file.shape(n)) for name, n in names.items()]
    writer = ShardWriter(output, specs, resume=True)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    permuted = family_of(file).permuted
    with progress.steps("weights", total=len(names)) as steps:
        for name, stored in names.items():
            part = stored.split(".")[-2]
            turned = heads.get(part) if permuted else None
            blocks = _blocks(file, stored, turned)
            writer.write_blocks({name: (_bytes(block, dtype) for block in blocks)})
            steps.advance(tensor=name)
    writer.finish()


def unpermuted(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of queries or keys, [heads x head_dim, …], in the order of stock Llama.

    llama.cpp rotates neighbouring channels, stock Llama a channel of the first half of a head with
    one of the second; its converter interleaves the halves, which is undone here.
    """
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _blocks(file: GgufFile, name: str, heads: int | None) -> Iterator[np.ndarray[Any, Any]]:
    """A tensor in float32, in order; whole where rows change places."""
    if heads:
        yield unpermuted(file.rows(name), heads)
        return
    count, *rest = file.shape(name)
    step = max(1, BLOCK_ENTRIES // int(np.prod(rest, dtype=np.int64)))
    for first in range(0, count, step):
        yield file.rows(name, first, first + step)


def _bytes(block: np.ndarray[Any, Any], dtype: str) -> Any:
    values = torch.from_numpy(np.array(block)).to(getattr(torch, dtype))
    return values.contiguous().reshape(-1).view(torch.uint8).numpy()
