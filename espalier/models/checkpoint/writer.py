"""Writing safetensors in a stream: each file under a temporary name, synced, then renamed."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch
from torch import Tensor

from espalier.errors import EnvironmentFailure
from espalier.models.checkpoint.header import ITEM_BYTES, LENGTH_BYTES, TensorEntry
from espalier.models.checkpoint.reader import TORCH_DTYPES, check_finite, read_blocks, read_entry

ALIGNMENT = 8
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class Selected:
    """Some rows and columns of a stored vector or matrix, in the order given.

    Attributes:
        entry: where it is stored.
        rows: int64 indices, None for all of them as they are.
        columns: of a matrix, as `rows`.
    """

    entry: TensorEntry
    rows: Tensor | None = None
    columns: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """What is left."""
        chosen = (self.rows, self.columns)[: len(self.entry.shape)]
        return tuple(
            size if kept is None else len(kept)
            for size, kept in zip(self.entry.shape, chosen, strict=True)
        )

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.entry.dtype]

    def blocks(self) -> Iterator[Tensor]:
        """The tensor in order: in pieces where all rows are kept, else at once.

        Raises:
            InputError: a value is NaN or infinite.
        """
        if self.rows is None:
            for block in read_blocks(self.entry):
                yield block if self.columns is None else block[:, self.columns]
            return
        whole = read_entry(self.entry)
        check_finite(self.entry.name, whole)
        kept = whole[self.rows]
        yield kept if self.columns is None else kept[:, self.columns]


Content: TypeAlias = "Tensor | TensorEntry | Selected"
"""A tensor in memory, the place of one that is copied in pieces and never held whole, or a part."""


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
    if isinstance(content, Selected):
        return content.entry.dtype, list(content.shape), content.nbytes
    return NAMES[content.dtype], list(content.shape), content.numel() * content.element_size()


def _write(stream: BinaryIO, content: Content) -> None:
    for block in _blocks(content):
        flat = block.detach().cpu().contiguous().reshape(-1)
        stream.write(flat.view(torch.uint8).numpy())


def _blocks(content: Content) -> Iterator[Tensor]:
    if isinstance(content, TensorEntry):
        yield from read_blocks(content)
    elif isinstance(content, Selected):
        yield from content.blocks()
    else:
        yield content
