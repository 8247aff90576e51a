"""How much of each domain is trained on: dynamic data loading (Xia et al., 2023, algorithm 1).

Shapes: K domains. All numbers are float64, which checkpoints hold exactly.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from espalier.errors import InputError
from methods.sheared_llama.named import in_order
from methods.sheared_llama.shares import PUBLISHED, Rule, require_shares

Float64 = npt.NDArray[np.float64]

SMOOTHING = 1e-4
"""Of what is drawn, so much is drawn evenly: a domain that shrank to nothing can come back."""


def initial_proportions(
    tokens: Mapping[str, int], given: Mapping[str, float] | None = None
) -> Float64:
    """What a run begins with, [K] in the order of `tokens`.

    Args:
        tokens: of each domain that the data has.
        given: shares that the user wants; None: the published ones where the domains are
            RedPajama's seven, else each domain's share of the tokens.

    Raises:
        InputError: the shares are not one for each domain, or are no distribution.
    """
    if given is not None:
        return np.array(require_shares(given, tokens))
    if set(tokens) == set(PUBLISHED):
        return np.array(require_shares(PUBLISHED, tokens))
    counts = np.array(list(tokens.values()), dtype=np.float64)
    if not len(counts) or counts.min() <= 0:
        empty = [name for name, count in tokens.items() if count <= 0]
        raise InputError(f"the data has no tokens of {', '.join(empty) or 'any domain'}; add some.")
    shares: Float64 = counts / counts.sum()
    return shares


def excess_losses(
    losses: Mapping[str, float | None], references: Mapping[str, float]
) -> list[float | None]:
    """Loss minus reference loss of each domain [K], nats, in the order of `losses`.

    It is negative where the model is better than its reference already: the paper's formula clips
    that at 0, the published loading does not, and neither does this.

    Args:
        losses: of an evaluation; None: it had no token of that domain.
        references: what each is to come down to.

    Raises:
        InputError: the references are not one for each domain, or a loss is NaN or infinite.
    """
    wanted = in_order(references, losses, "REFERENCE_LOSSES")
    broken = [name for name, loss in losses.items() if loss is not None and not np.isfinite(loss)]
    if broken:
        raise InputError(
            f"the loss of {', '.join(broken)} became NaN or infinite, so no proportions follow "
            "from it; resume from an earlier checkpoint with a lower learning rate."
        )
    return [
        None if loss is None else loss - reference
        for loss, reference in zip(losses.values(), wanted, strict=True)
    ]


def updated(
    rule: Rule, proportions: Float64, excess: Sequence[float | None], rate: float = 1.0
) -> Float64:
    """The proportions after an evaluation, [K], which sum to 1 within 1e-12.

    `doremi`: p_k exp(rate * excess_k), normalised (exponentiated gradient: Xie et al., 2023,
    arXiv 2305.10429, algorithm 1). `bandit`: softmax(p + excess). Then (1 - c) p + c / K with
    c = SMOOTHING. `fixed`: what they were.

    Args:
        rule: which of them.
        proportions: before, [K].
        excess: from `excess_losses`; a domain with None keeps its share (but for the smoothing),
            and the others divide the rest among them.
        rate: of `doremi`; published: 1.
    """
    if rule == "fixed":
        return proportions
    known = np.array([value is not None for value in excess])
    if not known.any():
        return proportions
    gains = np.array([value for value in excess if value is not None], dtype=np.float64)
    before = proportions[known]
    if rule == "doremi":
        with np.errstate(divide="ignore"):  # a domain that is never drawn: ln 0 and exp(-inf) = 0
            weights = _softmax(np.log(before) + rate * gains)
    else:
        weights = _softmax(before + gains)
    after = proportions.copy()
    after[known] = weights * before.sum()
    after = (1 - SMOOTHING) * after + SMOOTHING / len(after)
    normalised: Float64 = after / after.sum()
    return normalised


def _softmax(logits: Float64) -> Float64:
    largest = logits.max()
    if np.isneginf(largest):  # none of them is ever drawn, so that they have nothing to divide
        return np.full_like(logits, 1 / len(logits))
    weights = np.exp(logits - largest)
    shares: Float64 = weights / weights.sum()
    return shares
