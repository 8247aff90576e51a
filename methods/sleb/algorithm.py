"""SLEB (Song et al. 2024, arXiv 2402.09025, algorithm 1): which layer goes next, and after all.

The search itself is `espalier.pruning.depth.greedy`; here is what of it is SLEB's own.
"""

from collections.abc import Sequence

from espalier.pruning.depth.samples import Answers


def mean_loss(answers: Answers, tokens: int) -> float | None:
    """The mean cross-entropy of windows of `tokens` tokens, in nats; None: it is not finite.

    The reference's loss is this times the tokens of all windows.
    """
    return answers.cross_entropy(tokens - 1)


def order_of_the_reference(order: Sequence[int], layers: int, count: int) -> list[int]:
    """`count` removals: those searched, and after them the last layer that is left, each time.

    So the reference goes on, silently, where its barriers leave nothing to try: its index of the
    best candidate stays at -1.
    """
    left = [layer for layer in range(layers) if layer not in order]
    return [*order, *reversed(left)][:count]
