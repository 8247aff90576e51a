"""The rows of an export, in parts that become a file each: documents, or runs of equal length."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from espalier.data.tokens.index import Split
from espalier.data.tokens.reader import Ids, Stream, TokenData


@dataclass(frozen=True)
class Part:
    """Rows of ids [tokens], uint16 or uint32, and the file's name without suffix."""

    name: str
    rows: Iterator[Ids]


@dataclass(frozen=True)
class Rows:
    """What a row is: a document, or `length` tokens and, with `targets`, the one after them."""

    length: int = 0
    targets: bool = False

    def count(self, data: TokenData, split: Split) -> int:
        """Rows of a split."""
        if not self.length:
            return data.counts(split)[1]
        tokens, _ = data.counts(split)
        return max(0, tokens - self.targets) // self.length

    def tokens(self, data: TokenData, split: Split) -> int:
        """Tokens of all rows, one that ends a row and begins another counted once."""
        return self.count(data, split) * self.length if self.length else data.counts(split)[0]

    def parts(self, data: TokenData, split: Split) -> list[Part]:
        """A part a shard; with a length, the split's windows, each where its last token lies.

        Windows run on from shard to shard; only the tokens after the split's last whole one are
        left out. A shard in which no window ends gives no part.
        """
        stream = data.stream(split)
        if not self.length:
            return [Part(name, documents) for name, documents in stream.shards()]
        ends = np.cumsum([0, *(shard.tokens for shard in stream.index.shards)]) // self.length
        ends = np.minimum(ends, self.count(data, split))
        spans = [(int(low), int(high)) for low, high in pairwise(ends) if low < high]
        return [
            Part(
                f"{split}-{number:05d}-of-{len(spans):05d}",
                (self._window(stream, index) for index in range(low, high)),
            )
            for number, (low, high) in enumerate(spans)
        ]

    def _window(self, stream: Stream, index: int) -> Ids:
        first = index * self.length
        return stream.slice(first, first + self.length + self.targets)
