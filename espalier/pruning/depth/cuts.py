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
    """How often a walk runs a layer for the whole model and each cut."""
    return walk_runs(range(layers), [None, *cuts])


def walk_runs(numbers: Sequence[int], wanted: Sequence[Cut | None], start: int = 0) -> int:
    """How often `states_without` (depth_search) runs a layer.

    Args:
        numbers: the model's layers, ascending.
        wanted: what is left out in turn; None for nothing.
        start: the first layer that has not been run for any of them.
    """
    coming = [number for number in numbers if number >= start]
    last = max((cut.first for cut in wanted if cut), default=0)
    whole = len(coming) if None in wanted else sum(number < last for number in coming)
    return whole + sum(sum(number >= cut.end for number in coming) for cut in wanted if cut)


HELD_BYTES = 2 << 30
"""Hidden states that a walk may hold; decides speed only."""
KEPT_BYTES = 2 << 30
"""Hidden states that may be kept from one round of walks to the next; decides speed only."""
CHUNK_TOKENS = 1 << 14
"""So many tokens are walked at a time at most: what a killed run loses is one walk of them."""


def chunk_tokens(cuts: int, token_bytes: int) -> int:
    """Tokens that a walk takes with `cuts` cuts, of `token_bytes` bytes of hidden state each."""
    return max(1, min(CHUNK_TOKENS, HELD_BYTES // ((cuts + 2) * token_bytes)))
