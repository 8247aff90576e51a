"""Blocks of layers that are left out in turn. Needs no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Cut:
    """Layers `first` to `first + count` - 1 are gone."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """The first layer that runs again."""
        return self.first + self.count


def cuts_of(layers: int, counts: Iterable[int]) -> list[Cut]:
    """Every contiguous block of each size, of a model of `layers` layers."""
    return [Cut(first, count) for count in counts for first in range(layers - count + 1)]


def layer_runs(layers: int, cuts: Sequence[Cut]) -> int:
    """How often `with_and_without` (depth_search) runs a layer."""
    return layers + sum(layers - cut.end for cut in cuts)


HELD_BYTES = 2 << 30
"""Hidden states that a walk may hold; decides speed only."""
CHUNK_TOKENS = 1 << 14
"""So many tokens are walked at a time at most: what a killed run loses is one walk of them."""


def chunk_tokens(cuts: int, token_bytes: int) -> int:
    """Tokens that a walk takes with `cuts` cuts, of `token_bytes` bytes of hidden state each."""
    return max(1, min(CHUNK_TOKENS, HELD_BYTES // ((cuts + 2) * token_bytes)))
