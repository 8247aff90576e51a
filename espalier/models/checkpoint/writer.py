"""Writing tensors in a stream: a single file, or a checkpoint's."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from espalier.contract.files import replacing
from espalier.models.checkpoint.header import TensorEntry, TensorSpec, make_header
from espalier.models.checkpoint.reader import TORCH_DTYPES, check_finite, read_blocks, read_entry
from espalier.models.checkpoint.shards import ShardWriter

NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class Selected:
    """Some rows and columns of a stored vector or matrix, in the order given.

    Attributes:
        entry: where it is stored.
        rows: int64 indices, None for all of them as they are.
        columns: of a matrix, as `rows`.
        padded: the shape to which zeros fill it up, after its rows and columns; None: none do.
    """

    entry: TensorEntry
    rows: Tensor | None = None
    columns: Tensor | None = None
    padded: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is written."""
        return self.padded or self.chosen

    @property
    def chosen(self) -> tuple[int, ...]:
        """What is left, padding aside."""
        chosen = (self.rows, self.columns)[: len(self.entry.shape)]
        return tuple(
            size if kept is None else len(kept)
            for size, kept in zip(self.entry.shape, chosen, strict=True)
        )

    def blocks(self) -> Iterator[Tensor]:
        """The tensor in order: in pieces where all rows are kept and none is padding, else at once.

        Raises:
            InputError: a value is NaN or infinite.
        """
        if self.padded is not None and self.padded != self.chosen:
            whole = torch.zeros(self.padded, dtype=TORCH_DTYPES[self.entry.dtype])
            part = torch.cat(list(replace(self, padded=None).blocks()))
            whole[tuple(slice(size) for size in part.shape)] = part
            yield whole
            return
        if self.rows is None:
            for block in read_blocks(self.entry):
                yield block if self.columns is None else block[:, self.columns]
            return
        whole = read_entry(self.entry)
        check_finite(self.entry.name, whole)
        kept = whole[self.rows]
        yield kept if self.columns is None else kept[:, self.columns]


@dataclass(frozen=True)
class Computed:
    """A tensor that is computed when its turn comes to be written, in pieces or at once.

    Attributes:
        dtype: of torch.
        shape: of the whole.
        blocks: gives its rows in order; not called where the tensor is written already.
    """

    dtype: Any
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[Tensor]]


Content: TypeAlias = "Tensor | TensorEntry | Selected | Computed"
"""A tensor in memory, the place of one that is copied in pieces and never held whole, a part of
one, or one yet to be computed."""


class CheckpointWriter(ShardWriter):
    """Writes a checkpoint's tensors from memory and from other checkpoints."""

    def write(self, contents: Mapping[str, Content]) -> None:
        """Put tensors in their places; once this returns they survive a kill.

        Raises:
            EnvironmentFailure: the disk is full or cannot be written.
            InputError: a copied tensor holds NaN or infinities.
        """
        for name, content in contents.items():
            if spec_of(name, content) != self.specs[name]:
                raise RuntimeError(f"{name} is {spec_of(name, content)}, not {self.specs[name]}")
        self.write_blocks({name: _bytes(content) for name, content in contents.items()})


def write_safetensors(
    path: Path, contents: Mapping[str, Content], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one file atomically; the same contents give the same bytes.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
        InputError: a copied tensor holds NaN or infinities.
    """
    header, offsets = make_header(
        (spec_of(name, content) for name, content in contents.items()), metadata
    )
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(header)
        for name in offsets:
            for block in _bytes(contents[name]):
                stream.write(block)


def spec_of(name: str, content: Content) -> TensorSpec:
    """What a content is when it is written as `name`."""
    if isinstance(content, TensorEntry):
        return TensorSpec(name, content.dtype, content.shape)
    if isinstance(content, Selected):
        return TensorSpec(name, content.entry.dtype, content.shape)
    return TensorSpec(name, NAMES[content.dtype], tuple(content.shape))


def _bytes(content: Content) -> Iterator[Any]:
    for block in _blocks(content):
        flat = block.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy()


def _blocks(content: Content) -> Iterator[Tensor]:
    if isinstance(content, TensorEntry):
        yield from read_blocks(content)
    elif isinstance(content, Selected | Computed):
        yield from content.blocks()
    else:
        yield content
