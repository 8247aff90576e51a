"""Requests as a prefix tree over token ids: what several of them begin with stands in it once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from eval.requests.request import Ids, Request

ROOT = 0
_ORDERED = ">u4"
"""Numbers whose bytes compare as the numbers do."""


@dataclass
class Tree:
    """Nodes are runs of tokens without a fork; node 0 is the root, of no tokens.

    Attributes:
        starts: position of a node's first token, in every request that goes through it.
        ends: position after its last token.
        children: nodes below it, in the order of their tokens.
        owners: the requests whose inputs end with it.
        tokens: of each node, int32 [end - start].
    """

    starts: list[int] = field(default_factory=lambda: [0])
    ends: list[int] = field(default_factory=lambda: [0])
    children: list[list[int]] = field(default_factory=lambda: [[]])
    owners: list[list[int]] = field(default_factory=lambda: [[]])
    tokens: list[Ids] = field(default_factory=lambda: [np.empty(0, np.int32)])

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def sizes(self) -> list[int]:
        """Tokens of each node and all below it, once the tree is whole."""
        sizes = [end - start for start, end in zip(self.starts, self.ends, strict=True)]
        for node in self.below_first():
            sizes[node] += sum(sizes[child] for child in self.children[node])
        return sizes

    @property
    def size(self) -> int:
        """Tokens of all nodes: the least that a model has to read."""
        return self.sizes[ROOT]

    def below_first(self) -> list[int]:
        """All nodes, each after its children."""
        return sorted(range(len(self)), key=lambda node: (-self.starts[node], -node))

    def add(self, start: int, tokens: Ids) -> int:
        """A new node, which nothing leads to yet."""
        self.starts.append(start)
        self.ends.append(start + len(tokens))
        self.children.append([])
        self.owners.append([])
        self.tokens.append(tokens)
        return len(self) - 1

    def split(self, parent: int, node: int, at: int) -> int:
        """Cut a node, its parent's last child, at a position; gives the new node above it."""
        kept = at - self.starts[node]
        upper = self.add(self.starts[node], self.tokens[node][:kept])
        self.starts[node], self.tokens[node] = at, self.tokens[node][kept:]
        self.children[upper].append(node)
        self.children[parent][-1] = upper
        return upper


def build_tree(requests: Sequence[Request], chosen: Sequence[int] | None = None) -> Tree:
    """The tree of requests' inputs, whatever order they come in.

    Args:
        requests: all of them; owners are indices into it.
        chosen: indices of those that the tree is of; default all.
    """
    named: dict[bytes, list[int]] = {}
    for index in range(len(requests)) if chosen is None else chosen:
        named.setdefault(requests[index].inputs.astype(_ORDERED).tobytes(), []).append(index)
    tree, path, before = Tree(), [ROOT], np.empty(0, np.int32)
    for key in sorted(named):
        inputs = requests[named[key][0]].inputs
        common, below = _common(before, inputs), ROOT
        while tree.ends[path[-1]] > common:
            below = path.pop()
        if tree.ends[path[-1]] < common:
            path.append(tree.split(path[-1], below, common))
        leaf = tree.add(common, inputs[common:])
        tree.children[path[-1]].append(leaf)
        tree.owners[leaf] = named[key]
        path.append(leaf)
        before = inputs
    return tree


def _common(first: Ids, second: Ids) -> int:
    """How many tokens two sequences begin with alike."""
    shorter = min(len(first), len(second))
    different = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(different[0]) if len(different) else shorter
