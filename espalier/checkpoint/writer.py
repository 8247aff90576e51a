"""Writing safetensors in a stream: each file under a temporary name, synced, then renamed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch
from torch import Tensor

from espalier.checkpoint.header import ITEM_BYTES, LENGTH_BYTES, TensorEntry
from espalier.checkpoint.reader import TORCH_DTYPES, read_blocks
from espalier.errors import EnvironmentFailure

ALIGNMENT = 8
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}

Content: TypeAlias = "Tensor | TensorEntry"
"""A tensor in memory, or the place of one that is copied in pieces and never held whole."""


def write_safetensors(
    path: Path, contents: Mapping[str, Content], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one file atomically; the same contents give the same bytes.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
        InputError: a copied tensor holds NaN or infinities.
    """
    # Wide dtypes first, so that every tensor is aligned to its item.
    ordered = dict(sorted(contents.items(), key=lambda item: -ITEM_BYTES[_describe(item[1])[0]]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name, content in ordered.items():
        dtype, shape, nbytes = _describe(content)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as stream:
            stream.write(len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded)
            for content in ordered.values():
                _write(stream, content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise EnvironmentFailure(
            f"{path} cannot be written: {error.strerror}; free the space or choose another store."
        ) from None


def _describe(content: Content) -> tuple[str, list[int], int]:
    if isinstance(content, TensorEntry):
        return content.dtype, list(content.shape), content.nbytes
    return NAMES[content.dtype], list(content.shape), content.numel() * content.element_size()


def _write(stream: BinaryIO, content: Content) -> None:
    blocks = read_blocks(content) if isinstance(content, TensorEntry) else [content]
    for block in blocks:
        flat = block.detach().cpu().contiguous().reshape(-1)
        stream.write(flat.view(torch.uint8).numpy())
