"""What runs rows of a prefix tree, and asking it: requests in, what is known of each out."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from espalier.errors import InputError
from eval.requests.plan import Counts, Plan, make_plan
from eval.requests.request import Request
from eval.requests.scores import Scores


class Scorer(Protocol):
    """What runs rows."""

    @property
    def dtype(self) -> str:
        """In which it computes."""

    def lengths(self, longest: int) -> list[int]:
        """That rows may have, where the longest request has so many tokens."""

    def cost(self, length: int, chain: bool) -> float:
        """About how much work a row is."""

    def score(self, plan: Plan) -> Scores:
        """All rows of a plan."""


def answers(scorer: Scorer, requests: Sequence[Request]) -> tuple[Scores, Counts]:
    """What is known of each request, and the tokens that were read for it.

    Raises:
        InputError: the model gives NaN or infinities.
    """
    longest = max((len(request.inputs) for request in requests), default=0)
    plan = make_plan(requests, scorer.lengths(longest), scorer.cost)
    scores = scorer.score(plan)
    if not all(map(math.isfinite, scores.sums)):
        raise InputError(
            f"the logits became NaN or infinite in {scorer.dtype} on these tokens; check that the "
            "weights are whole and belong to this config.json."
        )
    return scores, replace(plan.counts, rows=scores.tokens)
