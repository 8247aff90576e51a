"""A row: the tokens of a piece of the tree in one line, and which of them see which."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.requests.packing import Piece
from eval.requests.request import Ids, Request
from eval.requests.tree import Tree

PADDING = 0
"""The id that fills a row up; no scored token sees it."""


@dataclass(frozen=True)
class Row:
    """Tokens in depth-first order: what follows a token from its own place to its end is below it.

    Attributes:
        ids: int32 [L], filled up with `PADDING`.
        positions: int32 [L], of each token in its own requests.
        ends: int32 [L]: token j is seen by the tokens i with j <= i < ends[j], and no others.
        used: tokens that are no padding.
        at: int32 [S], the places whose logits are wanted, one for each target.
        targets: int32 [S].
        requests: int32 [S], which request each target is of; its targets stand together, in order.
    """

    ids: Ids
    positions: Ids
    ends: Ids
    used: int
    at: Ids
    targets: Ids
    requests: Ids

    @property
    def is_chain(self) -> bool:
        """Whether each token sees all before it, so that plain causal attention is right."""
        return bool((self.ends[: self.used] == self.used).all())


def tree_mask(ends: Ids) -> NDArray[np.bool_]:
    """Of ends [..., L] the mask bool [..., L, L]: whether query i (rows) sees key j (columns)."""
    places = np.arange(ends.shape[-1])
    causal = places[:, None] >= places[None, :]
    return causal & (places[:, None] < ends[..., None, :])


def lay_out(tree: Tree, piece: Piece, requests: Sequence[Request], length: int) -> Row:
    """A piece that begins at the root, as a row of `length` tokens.

    Raises:
        ValueError: it is longer than that.
    """
    if piece.size > length:
        raise ValueError(f"a piece of {piece.size} tokens is longer than a row of {length}.")
    ids = np.full(length, PADDING, np.int32)
    positions = np.zeros(length, np.int32)
    ends = np.arange(1, length + 1, dtype=np.int32)  # padding sees itself: nothing would give NaN
    path = np.zeros(max(tree.ends), np.int32)  # the place of each position of the current request
    at, targets, owners = [np.empty(0, np.int32)], [np.empty(0, np.int32)], []
    for part, place in _walk(tree, piece):
        start, stop = tree.starts[part.node], tree.ends[part.node]
        here = slice(place, place + stop - start)
        ids[here] = tree.tokens[part.node]
        positions[here] = np.arange(start, stop)
        path[start:stop] = np.arange(here.start, here.stop)
        ends[here] = place + part.size
        for index in tree.owners[part.node] if part.first else ():
            wanted = requests[index].targets
            at.append(path[stop - len(wanted) : stop].copy())
            targets.append(wanted)
            owners += [index] * len(wanted)
    return Row(
        ids,
        positions,
        ends,
        piece.size,
        np.concatenate(at),
        np.concatenate(targets),
        np.asarray(owners, np.int32),
    )


def _walk(tree: Tree, piece: Piece) -> Iterator[tuple[Piece, int]]:
    """Depth first, each node's piece and the place of its first token.

    Without recursion: requests that continue one another nest as deep as there are of them.
    """
    waiting, place = [piece], 0
    while waiting:
        piece = waiting.pop()
        yield piece, place
        place += tree.ends[piece.node] - tree.starts[piece.node]
        parts = piece.parts
        if parts is None:
            parts = tuple(Piece(child, tree.sizes[child]) for child in tree.children[piece.node])
        waiting += reversed(parts)
