"""The states without each block of layers, from one walk through the model.

Everything up to the cut is shared: the walk keeps the hidden states before each layer once, and for
every cut runs only what follows it. L layers without k cost L + (L-k)(L-k+1)/2 layers instead of
L + (L-k)(L-k+1). A walk may begin where an earlier one has passed, if nothing before it differs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from espalier.models.decoder import Layer
from espalier.pruning.depth.cuts import Cut

State = TypeVar("State")


@dataclass(frozen=True)
class Front(Generic[State]):
    """How far a walk has come.

    Attributes:
        layer: no layer from here on has run.
        states: what comes out of those before it, without each cut that begins before it, and under
            None without any.
    """

    layer: int
    states: dict[Cut | None, State]


def states_without(
    layers: Iterable[Layer],
    start: Front[State],
    wanted: Sequence[Cut | None],
    advance: Callable[[Layer, State, Cut | None], State],
    passing: Callable[[Front[State]], None] = lambda front: None,
) -> dict[Cut | None, State]:
    """Final states without each cut, and under None, where it is wanted, of the whole model.

    Args:
        layers: each layer from the start on, in order; it is read once.
        start: where the walk begins; its states are taken over, so that what is passed is freed.
        wanted: what is left out in turn; None for nothing.
        advance: a state through one layer, as a new state: the old one may be shared; it is told
            which cut it is without, None for the whole model.
        passing: is told of the front before each layer; its states may be kept.
    """
    streams = start.states
    last = max((cut.first for cut in wanted if cut), default=0)
    for layer in layers:
        passing(Front(layer.number, dict(streams)))
        if None in streams:
            whole = streams[None]
            streams |= {cut: whole for cut in wanted if cut and cut.first == layer.number}
            if None not in wanted and layer.number >= last:
                del streams[None], whole
        for cut in [cut for cut in streams if cut is None or cut.end <= layer.number]:
            streams[cut] = advance(layer, streams[cut], cut)
    return streams


def choose_block(
    scores: Sequence[float], unpruned: float, lower_is_better: bool, best: bool
) -> int:
    """The first layer of the block to remove.

    Args:
        scores: by first removed layer.
        unpruned: the score of the whole model.
        lower_is_better: perplexity, not accuracy.
        best: take the best score; else, as the reference does, the one nearest to `unpruned`.
    """
    return order_of_removal(scores, unpruned, lower_is_better, best)[0]


def order_of_removal(
    scores: Sequence[float], unpruned: float, lower_is_better: bool, best: bool
) -> list[int]:
    """Indices by what their removal costs, the cheapest first; of equals the first."""

    def cost(index: int) -> float:
        if not best:
            return abs(scores[index] - unpruned)
        return scores[index] if lower_is_better else -scores[index]

    return sorted(range(len(scores)), key=cost)
