"""The rows of an export, in parts that become a file each: documents, or runs of equal length."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from espalier.token_data.index import Split
from espalier.token_data.reader import Ids, TokenData


@dataclass(frozen=True)
class Part:
    """Rows of ids [tokens], uint16 or uint32, and the file's name without suffix."""

    name: str
    rows: Iterator[Ids]


def parts(data: TokenData, split: Split, length: int) -> list[Part]:
    """A part a shard; with a `length`, the split's windows, each where its last token lies.

    Windows run on from shard to shard; only the tokens after the split's last whole one are left
    out. A shard in which no window ends gives no part.
    """
    stream = data.stream(split)
    if not length:
        return [Part(name, documents) for name, documents in stream.shards()]
    ends = np.cumsum([0, *(shard.tokens for shard in stream.index.shards)]) // length
    spans = [(int(low), int(high)) for low, high in pairwise(ends) if low < high]
    return [
        Part(
            f"{split}-{number:05d}-of-{len(spans):05d}",
            (data.window(split, index, length) for index in range(low, high)),
        )
        for number, (low, high) in enumerate(spans)
    ]


def counts(data: TokenData, split: Split, length: int) -> tuple[int, int]:
    """Tokens and rows of all parts of a split."""
    if not length:
        return data.counts(split)
    windows = data.windows(split, length)
    return windows * length, windows
