"""The pure part: which split a document is in, and how documents form blocks."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from espalier.data.tokens.index import Split

Entry = TypeVar("Entry")


def place_of(text: str) -> float:
    """Where a text lies among all, from 0 to below 1, by its own hash."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # exact, so never rounded up to 1


@dataclass(frozen=True)
class Fractions:
    """How much of a text goes to `valid` and to `test`; the rest is `train`."""

    valid: float
    test: float

    def split_of(self, text: str) -> Split:
        """By the text's own hash: equal texts are in one split, whatever stands around them."""
        return self.split_at(place_of(text))

    def split_at(self, place: float) -> Split:
        """The split of the texts that lie there.

        `valid` is taken from one end of the hashes and `test` from the other, so that changing
        one fraction leaves the other's documents where they are.
        """
        if place < self.valid:
            return "valid"
        return "test" if place >= 1 - self.test else "train"


def blocks(entries: Iterable[Entry], documents: int, characters: int) -> Iterator[list[Entry]]:
    """Texts and whatever stands in their place, in lists that end with the `documents`-th entry or
    when the texts hold `characters`.
    """
    block: list[Entry] = []
    held = 0
    for entry in entries:
        block.append(entry)
        held += len(entry) if isinstance(entry, str) else 0
        if len(block) == documents or held >= characters:
            yield block
            block, held = [], 0
    if block:
        yield block


def until_enough(lengths: Sequence[int], tokens: int) -> int:
    """How many of `lengths` it takes to sum to `tokens`; all of them where they sum to less."""
    return min(len(lengths), int(np.searchsorted(np.cumsum(lengths), tokens)) + 1)
