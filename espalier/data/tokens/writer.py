"""Writes the shards of one split, and resumes after an interruption as if there had been none."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from espalier.contract.files import file_sha256
from espalier.data.tokens.index import START, Split, SplitIndex, TokenShard


class Size(BaseModel):
    """What has been written of a shard."""

    tokens: int = 0
    documents: int = 0


class SplitWriter:
    """Appends documents to the files `<split>-<n>.{tokens,starts}` of `folder`.

    What lies after `sizes` in the folder was written by an interrupted run and is cut off.

    Attributes:
        sizes: of every shard so far; the last is the open one.

    Raises:
        FileNotFoundError: files that `sizes` speaks of are not there, or are shorter.
    """

    def __init__(
        self,
        folder: Path,
        split: Split,
        dtype: "np.dtype[Any]",
        limit: int,
        sizes: Sequence[Size] = (),
    ) -> None:
        self.sizes = list(sizes)
        self._folder, self._split, self._dtype, self._limit = folder, split, dtype, limit
        for path in sorted(folder.glob(f"{split}-*")):
            if int(path.stem.rpartition("-")[2]) >= len(self.sizes):
                path.unlink()
        for number, size in enumerate(self.sizes):
            closed = number < len(self.sizes) - 1
            _cut(self._path(number, "tokens"), size.tokens * dtype.itemsize)
            _cut(self._path(number, "starts"), (size.documents + closed) * START.itemsize)

    @property
    def tokens(self) -> int:
        """Tokens of the split so far."""
        return sum(size.tokens for size in self.sizes)

    def append(self, documents: Sequence[npt.NDArray[Any]]) -> None:
        """Write documents, ids [tokens] each, none of them empty.

        A document that would make the open shard larger than the limit begins the next; one that
        is larger than the limit itself has a shard of its own.
        """
        waiting: list[npt.NDArray[Any]] = []
        filled = self.sizes[-1].tokens if self.sizes else 0
        for document in documents:
            if not self.sizes:
                self.sizes.append(Size())
            elif filled and filled + len(document) > self._limit:
                self._write(waiting)
                self._end()
                self.sizes.append(Size())
                waiting, filled = [], 0
            waiting.append(document)
            filled += len(document)
        self._write(waiting)

    def finish(self) -> SplitIndex:
        """End the open shard and hash them all; their names now say how many there are."""
        if self.sizes:
            self._end()
        shards = []
        for number, size in enumerate(self.sizes):
            name = f"{self._split}-{number:05d}-of-{len(self.sizes):05d}"
            digest = file_sha256(self._path(number, "tokens"))
            shards.append(
                TokenShard(name=name, tokens=size.tokens, documents=size.documents, sha256=digest)
            )
        return SplitIndex.of(tuple(shards))

    def move(self, index: SplitIndex, target: Path) -> None:
        """Move the finished shards to `target` under their names."""
        for number, shard in enumerate(index.shards):
            for kind in ("starts", "tokens"):
                self._path(number, kind).replace(target / f"{shard.name}.{kind}")

    def _write(self, documents: Sequence[npt.NDArray[Any]]) -> None:
        if not documents:
            return
        size = self.sizes[-1]
        lengths = np.fromiter(map(len, documents), np.int64, len(documents))
        starts = size.tokens + np.cumsum(lengths) - lengths  # int64 [documents]
        number = len(self.sizes) - 1
        ids = np.concatenate(documents).astype(self._dtype, copy=False)
        _append(self._path(number, "tokens"), ids)
        _append(self._path(number, "starts"), starts.astype(START))
        size.tokens += int(lengths.sum())
        size.documents += len(documents)

    def _end(self) -> None:
        """Write the end after the starts of the open shard."""
        size, path = self.sizes[-1], self._path(len(self.sizes) - 1, "starts")
        _cut(path, size.documents * START.itemsize)
        _append(path, np.asarray([size.tokens], START))

    def _path(self, number: int, kind: str) -> Path:
        return self._folder / f"{self._split}-{number:05d}.{kind}"


def _append(path: Path, numbers: npt.NDArray[Any]) -> None:
    """Write at the end of a file, and to the disk: the place that is saved next relies on it."""
    with path.open("ab") as file:
        file.write(numbers.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _cut(path: Path, size: int) -> None:
    """Shorten a file to `size` bytes; one of no bytes need not be there."""
    if size == 0 and not path.exists():
        return
    if path.stat().st_size < size:
        raise FileNotFoundError(path)
    os.truncate(path, size)
