"""From requests to rows: of the row lengths that are allowed, those that cost the model least."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from eval.requests.packing import Piece, is_chain, pack
from eval.requests.request import Request
from eval.requests.rows import Row, lay_out
from eval.requests.tree import Tree, build_tree

Cost = Callable[[int, bool], float]
"""Of a row: its length, and whether it is a chain, which plain causal attention does."""


@dataclass(frozen=True)
class Counts:
    """Tokens that a model reads.

    Attributes:
        rows: of the rows, padding too.
        tree: of the prefix tree, every shared token once: the least that is possible.
        naive: of the requests one by one, without padding.
    """

    rows: int = 0
    tree: int = 0
    naive: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.rows + other.rows, self.tree + other.tree, self.naive + other.naive)


@dataclass(frozen=True)
class Packed:
    """A piece of a tree, the length of the row that it goes into, and whether it has no fork."""

    tree: Tree
    piece: Piece
    length: int
    chain: bool


@dataclass(frozen=True)
class Plan:
    """Rows in which each request has all its targets exactly once.

    Attributes:
        requests: in the order that they were asked in.
        packed: what stands in each row. The longest come first, so that memory which does not
            suffice is found out at once; of one length, those with a fork.
        counts: tokens.
    """

    requests: Sequence[Request]
    packed: list[Packed]
    counts: Counts

    def rows(self) -> Iterator[Row]:
        """Each row, made when it is asked for."""
        for packed in self.packed:
            yield lay_out(packed.tree, packed.piece, self.requests, packed.length)


def make_plan(requests: Sequence[Request], lengths: Sequence[int], cost: Cost) -> Plan:
    """The cheapest of the plans whose rows have the given lengths, and the same one each time.

    Long rows share more and are fuller; in short ones attention costs less. Tried are, for each
    length, rows of that one for all requests that fit them, and for longer requests rows of the
    least length that each fits. Requests in rows of other lengths share nothing.

    Args:
        requests: in any order.
        lengths: that rows may have, ascending; the last holds the longest request.
        cost: of a row of such a length.

    Raises:
        ValueError: a request is longer than any row.
    """
    longest = max((len(request.inputs) for request in requests), default=0)
    if longest > lengths[-1]:
        raise ValueError(f"a request of {longest} tokens is longer than a row of {lengths[-1]}.")
    trees: dict[tuple[int, ...], Tree] = {}
    plans: list[tuple[float, list[Packed]]] = []
    for base in lengths:
        packed: list[Packed] = []
        for length, chosen in _shared_rows(requests, lengths, base):
            if chosen not in trees:
                trees[chosen] = build_tree(requests, chosen)
            packed += _packed(trees[chosen], length, lengths)
        plans.append((sum(cost(row.length, row.chain) for row in packed), packed))
    _, packed = min(plans, key=lambda tried: tried[0])
    whole = trees.get(tuple(range(len(requests)))) or build_tree(requests)
    counts = Counts(
        rows=sum(row.length for row in packed),
        tree=whole.size,
        naive=sum(len(request.inputs) for request in requests),
    )
    order = sorted(packed, key=lambda row: (-row.length, row.chain, -row.piece.size))
    return Plan(requests, order, counts)


def row_lengths(longest: int, most: int = 2048, least: int = 64, growth: int = 2) -> list[int]:
    """Few lengths for rows, each some times the one before, and one that holds the longest request.

    Args:
        longest: tokens of the longest request; most of those are truncated to the model's window.
        most: how long rows may be for the sake of sharing.
        least: the shortest, and what the one for the longest request is a multiple of.
        growth: how many times as long as the one before each is.
    """
    lengths = {-(-longest // least) * least}
    while least <= max(most, longest):
        lengths.add(least)
        least *= growth
    return sorted(lengths - {0})


def _shared_rows(
    requests: Sequence[Request], lengths: Sequence[int], base: int
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Lengths of rows and the requests in them, the longest first; `base` holds all that fit it."""
    found: dict[int, list[int]] = {}
    allowed = [length for length in lengths if length >= base]
    for index, request in enumerate(requests):
        length = next(length for length in allowed if length >= len(request.inputs))
        found.setdefault(length, []).append(index)
    for length in sorted(found, reverse=True):
        yield length, tuple(found[length])


def _packed(tree: Tree, length: int, lengths: Sequence[int]) -> Iterator[Packed]:
    """Rows of at most `length`; one that is far from full is as short as may be."""
    for piece in pack(tree, length):
        least = next(allowed for allowed in lengths if allowed >= piece.size)
        yield Packed(tree, piece, least, is_chain(tree, piece))
