"""A prefix tree in rows of a given length: subtrees whole if they fit, else with their prefix."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from eval.requests.tree import ROOT, Tree


@dataclass(frozen=True)
class Piece:
    """A part of a tree that hangs together, from one node down.

    Attributes:
        node: its topmost node.
        size: tokens in it.
        parts: what is below that node; None where that is all that the tree has there.
        first: whether it is the first piece with this node, which the node's requests go to.
    """

    node: int
    size: int
    parts: tuple["Piece", ...] | None = None
    first: bool = True


def pack(tree: Tree, length: int) -> list[Piece]:
    """Pieces of at most `length` tokens that begin at the root and hold all of the tree.

    A node whose subtree is too large for what its prefix leaves of a row is put into several
    pieces, and they hold as much of what is below it as fits, the largest first, each where the
    least room is left. So a prefix stands in as many rows as it has to, and in no row twice.

    Raises:
        ValueError: a request is longer than that.
    """
    if max(tree.ends) > length:
        raise ValueError(f"a request of {max(tree.ends)} tokens is longer than a row of {length}.")
    pieces: list[list[Piece]] = [[] for _ in range(len(tree))]
    for node in tree.below_first():
        if tree.sizes[node] <= length - tree.starts[node]:
            pieces[node] = [Piece(node, tree.sizes[node])]
            continue
        below = [piece for child in tree.children[node] for piece in pieces[child]]
        own = tree.ends[node] - tree.starts[node]
        for place, held in enumerate(best_fit([b.size for b in below], length - tree.ends[node])):
            parts = tuple(below[index] for index in held)
            size = own + sum(part.size for part in parts)
            pieces[node].append(Piece(node, size, parts, first=place == 0))
    return pieces[ROOT]


def is_chain(tree: Tree, piece: Piece) -> bool:
    """Whether it has no fork: each token sees all before it."""
    parts = piece.parts
    while parts is not None:
        if len(parts) != 1:
            return not parts
        piece, parts = parts[0], parts[0].parts
    below = tree.children[piece.node]
    while len(below) == 1:
        below = tree.children[below[0]]
    return not below


def best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Indices of things of these sizes, in bins: the largest first, each into the fullest it fits.

    Sizes of at most `room`; no two bins could be one.
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # room that is left, and the bin
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        at = bisect_left(free, (sizes[index], -1))
        if at == len(free):
            left, chosen = room, len(bins)
            bins.append([])
        else:
            left, chosen = free.pop(at)
        bins[chosen].append(index)
        insort(free, (left - sizes[index], chosen))
    return [sorted(held) for held in bins]
