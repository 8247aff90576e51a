"""Where the walks of several rounds may begin: what one round has run is not run by the next.

Removing a layer changes no state in front of it. So a front that a round's walk has passed - the
states of the model and of every stream without a candidate, in front of one layer - holds for the
next round, and the one after it, until a layer before it goes. The deepest one that still holds is
where a walk begins.

Which layer goes is known when the walk is over, and holding every front would take L^2/2 states. As
many are held as `most` allows, at the depths that are expected to save the most: the candidates
that cost least in the last round are the likeliest to go in this one. What is held decides speed
alone.
"""

from collections.abc import Mapping, Sequence
from typing import Generic

from espalier.pruning.depth.cuts import Cut, walk_runs
from espalier.pruning.depth.depth_search import Front, State


class Fronts(Generic[State]):
    """The fronts held between rounds, of each part of the tokens.

    Attributes:
        start: the layer at which the walks of this round begin; 0: at the embedding.
        depths: where they leave a front to the next one.
    """

    def __init__(self, most: int = 0) -> None:
        """Begin with none.

        Args:
            most: states that may be held; a front is a state of each stream that it has.
        """
        self._most = most
        self.start = 0
        self.depths: frozenset[int] = frozenset()
        self._held: dict[int, dict[int, Front[State]]] = {}

    def aim(self, numbers: Sequence[int], likely: Mapping[int, float]) -> None:
        """A round begins: choose the fronts that it shall leave to the next.

        Args:
            numbers: the layers that the round begins with, ascending.
            likely: how likely each candidate is to go in it.
        """
        self.start = max(self.depths, default=0)
        possible = sorted({*self.depths, *(layer for layer in likely if layer >= self.start)})
        self.depths = frozenset(chosen_depths(numbers, likely, possible, self._most))

    def removed(self, layer: int) -> None:
        """A layer has gone for good: what lies behind it holds no more."""
        self.depths = frozenset(depth for depth in self.depths if depth <= layer)
        for part in self._held:
            self._keep(part, self.depths)

    def reached(self, part: int) -> int:
        """The layer at which the walk of a part begins."""
        return max(self._held.get(part, ()), default=0)

    def begin(self, part: int) -> Front[State] | None:
        """Where the walk of a part of the tokens begins; None: at the embedding, as none is held.

        Those that the round is not to leave are let go of.
        """
        held = self._held.get(part)
        deepest = held[max(held)] if held else None
        self._keep(part, self.depths)
        return deepest and Front(deepest.layer, dict(deepest.states))

    def offer(self, part: int, front: Front[State]) -> None:
        """The walk of a part has come so far."""
        if front.layer in self.depths:
            self._held.setdefault(part, {})[front.layer] = front

    def _keep(self, part: int, depths: frozenset[int]) -> None:
        held = self._held.get(part, {})
        for depth in held.keys() - depths:
            del held[depth]


def chosen_depths(
    numbers: Sequence[int], likely: Mapping[int, float], possible: Sequence[int], most: int
) -> list[int]:
    """Which depths to hold a front at, the most worth its states first.

    A front spares the next round the walk to it if the layer that goes is not before it.

    Args:
        numbers: the model's layers, ascending.
        likely: by candidate, how likely it is to go.
        possible: depths to choose among.
        most: states that may be held.
    """
    candidates = sorted(likely)
    cuts: list[Cut | None] = [None, *(Cut(candidate, 1) for candidate in candidates)]
    size = {depth: 1 + sum(other < depth for other in candidates) for depth in possible}
    all_runs = walk_runs(numbers, cuts)
    spares = {depth: all_runs - walk_runs(numbers, cuts, depth) for depth in possible}
    spared = dict.fromkeys(candidates, 0)  # of the next walk, if this layer goes
    chosen: list[int] = []

    def worth(depth: int) -> float:
        more = {c: spares[depth] - spared[c] for c in candidates if c >= depth}
        return sum(likely[c] * runs for c, runs in more.items() if runs > 0) / size[depth]

    while fitting := [d for d in possible if d not in chosen and size[d] <= most]:
        best = max(fitting, key=worth)
        if worth(best) <= 0:
            break
        chosen.append(best)
        most -= size[best]
        for candidate in candidates:
            if candidate >= best:
                spared[candidate] = max(spared[candidate], spares[best])
    return chosen
