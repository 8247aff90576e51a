"""Reads token data: documents, and windows of a split's one stream of tokens."""

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from espalier.contract.files import file_sha256
from espalier.data.tokens.fitting import check_fit
from espalier.data.tokens.index import START, Split, SplitIndex, TokenIndex, TokenShard, token_dtype
from espalier.errors import InputError

Ids = npt.NDArray[np.unsignedinteger[Any]]


class TokenData:
    """A directory of token data. Nothing but its index is held in memory.

    Raises:
        InputError: the index cannot be read, or a shard has not the size that it says.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.index = TokenIndex.read(directory)
        self.dtype = token_dtype(self.index.dtype)
        self._streams = {
            split: Stream(directory, found, self.dtype)
            for split, found in self.index.splits.items()
        }

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that hold documents."""
        return tuple(name for name, split in self.index.splits.items() if split.documents)

    def counts(self, split: Split) -> tuple[int, int]:
        """Tokens and documents of a split."""
        index = self.stream(split).index
        return index.tokens, index.documents

    def documents(self, split: Split) -> Iterator[Ids]:
        """Each document's ids, uint16 or uint32 [tokens], with its BOS and EOS."""
        return self.stream(split).documents()

    def windows(self, split: Split, length: int) -> int:
        """How many whole windows of `length` tokens the split has."""
        return self.stream(split).index.tokens // length

    def window(self, split: Split, index: int, length: int) -> Ids:
        """Tokens `index * length` up to the next window's, uint16 or uint32 [length].

        Raises:
            IndexError: the split has no such window.
        """
        return self.stream(split).slice(*self._bounds(split, index, length))

    def boundaries(self, split: Split, index: int, length: int) -> npt.NDArray[np.int64]:
        """Where in that window documents begin, int64 [documents], ascending.

        Raises:
            IndexError: the split has no such window.
        """
        return self.stream(split).boundaries(*self._bounds(split, index, length))

    def require_fit(self, model: Path, rows: int) -> None:
        """Refuse a model, with `rows` in its embedding, that cannot read these ids.

        Raises:
            InputError: another tokenizer made them, or there may be some beyond its rows.
        """
        check_fit(self.directory, self.index.tokenizer, self.index.vocabulary, model, rows)

    def verify(self, part: int = 0, of: int = 1) -> None:
        """Read every shard, or every `of`-th from `part`, and compare it with the index.

        Raises:
            InputError: a shard is not what was published; the first is named.
        """
        for stream in self._streams.values():
            stream.verify(part, of)

    def stream(self, split: Split) -> "Stream":
        """One split.

        Raises:
            InputError: there is none of that name.
        """
        if split not in self._streams:
            raise InputError(
                f"{self.directory} has no split {split} (it has: {', '.join(self._streams)})."
            )
        return self._streams[split]

    def _bounds(self, split: Split, index: int, length: int) -> tuple[int, int]:
        if length < 1 or not 0 <= index < self.windows(split, length):
            raise IndexError(f"{split} has no window {index} of {length} tokens")
        return index * length, (index + 1) * length


class Stream:
    """A split's shards as one row of tokens."""

    def __init__(self, directory: Path, index: SplitIndex, dtype: "np.dtype[Any]") -> None:
        self.index = index
        self._shards = [MappedShard(directory, shard, dtype) for shard in index.shards]
        sizes = [shard.tokens for shard in index.shards]
        self._firsts = np.cumsum([0, *sizes])  # int64 [shards + 1]: where each begins in the stream
        self._dtype = dtype

    def documents(self) -> Iterator[Ids]:
        """Each document's ids [tokens]."""
        for _, documents in self.shards():
            yield from documents

    def shards(self) -> Iterator[tuple[str, Iterator[Ids]]]:
        """The name of each shard and its documents' ids [tokens]."""
        for record, shard in zip(self.index.shards, self._shards, strict=True):
            yield record.name, shard.documents()

    def slice(self, first: int, end: int) -> Ids:
        """Tokens `first` to `end` of the stream [end - first], a copy."""
        parts = [shard.tokens[low:high] for shard, low, high in self._touched(first, end)]
        return np.concatenate(parts) if parts else np.empty(0, self._dtype)

    def boundaries(self, first: int, end: int) -> npt.NDArray[np.int64]:
        """Offsets from `first` at which documents begin, int64."""
        found, position = [np.empty(0, np.int64)], 0
        for shard, low, high in self._touched(first, end):
            starts = shard.starts[:-1]
            # uint64 as the offsets are: a signed number would turn all of them into floats
            bounds = np.searchsorted(starts, np.asarray([low, high], START))
            inside = starts[bounds[0] : bounds[1]]
            found.append(inside.astype(np.int64) - low + position)
            position += high - low
        return np.concatenate(found)

    def verify(self, part: int = 0, of: int = 1) -> None:
        """As TokenData.verify."""
        for shard in self._shards[part::of]:
            shard.verify()

    def _touched(self, first: int, end: int) -> Iterator[tuple["MappedShard", int, int]]:
        """The shards that tokens `first` to `end` lie in, and which tokens of each."""
        at = int(np.searchsorted(self._firsts, first, side="right")) - 1
        while first < end:
            base, stop = int(self._firsts[at]), min(end, int(self._firsts[at + 1]))
            yield self._shards[at], first - base, stop - base
            first, at = stop, at + 1


class MappedShard:
    """A shard's two files; each is mapped when it is first read."""

    def __init__(self, directory: Path, shard: TokenShard, dtype: "np.dtype[Any]") -> None:
        self._shard, self._dtype = shard, dtype
        self._tokens = directory / f"{shard.name}.tokens"
        self._starts = directory / f"{shard.name}.starts"
        self._check_size(self._tokens, shard.tokens * dtype.itemsize)
        self._check_size(self._starts, (shard.documents + 1) * START.itemsize)

    @cached_property
    def tokens(self) -> Ids:
        """Ids [tokens]."""
        return np.memmap(self._tokens, self._dtype, mode="r")

    @cached_property
    def starts(self) -> npt.NDArray[np.uint64]:
        """Offsets uint64 [documents + 1], ascending from 0 to the number of tokens.

        Raises:
            InputError: they are not.
        """
        starts = np.memmap(self._starts, START, mode="r")
        # compared, not subtracted: differences of unsigned numbers are never negative
        ascending = bool(np.all(starts[:-1] < starts[1:]))
        if not ascending or starts[0] != 0 or starts[-1] != self._shard.tokens:
            raise _corrupted(self._starts)
        return starts

    def documents(self) -> Iterator[Ids]:
        """Each document's ids [tokens]."""
        for first, end in pairwise(self.starts):
            yield self.tokens[int(first) : int(end)]

    def verify(self) -> None:
        """As TokenData.verify."""
        _ = self.starts
        if file_sha256(self._tokens) != self._shard.sha256:
            raise _corrupted(self._tokens)

    def _check_size(self, path: Path, size: int) -> None:
        if not path.is_file() or path.stat().st_size != size:
            raise _corrupted(path)


def _corrupted(path: Path) -> InputError:
    return InputError(f"{path} is not what tokens.json says; make the data again with FORCE=1.")
