"""The score without each block of layers, from one walk through the model.

Everything up to the cut is shared: the walk keeps the hidden states before each layer once, and for
every cut runs only what follows it. L layers without k cost L + (L-k)(L-k+1)/2 layers instead of
L + (L-k)(L-k+1).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from espalier.models.decoder import Layer
from espalier.pruning.depth.cuts import Cut

State = TypeVar("State")


def with_and_without(
    layers: Iterable[Layer],
    start: State,
    cuts: Sequence[Cut],
    advance: Callable[[Layer, State, Cut | None], State],
) -> tuple[State, dict[Cut, State]]:
    """Final states of the whole model, and without each cut; each layer is read once.

    Args:
        layers: each layer in order.
        start: the state before the first layer.
        cuts: what is left out in turn.
        advance: a state through one layer, as a new state: the old one may be shared; it is told
            which cut it is without, None for the whole model.
    """
    whole, without = start, dict[Cut, State]()
    for layer in layers:
        without |= {cut: whole for cut in cuts if cut.first == layer.number}
        for cut in [cut for cut in without if cut.end <= layer.number]:
            without[cut] = advance(layer, without[cut], cut)
        whole = advance(layer, whole, None)
    return whole, without


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
