"""What a model says of a plan's requests, gathered from rows in whatever order they are run."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.requests.rows import Row


@dataclass(frozen=True)
class Scores:
    """What is known of each request.

    Attributes:
        sums: of its targets' log-probabilities.
        greedy: whether each target was the likeliest.
        likeliest: the token that was, where the last target stands.
        tokens: that were read, with padding.
    """

    sums: list[float]
    greedy: list[bool]
    likeliest: list[int]
    tokens: int


class Tally:
    """Sums in float64, row by row.

    Attributes:
        tokens: that were read so far.
    """

    def __init__(self, requests: int) -> None:
        self.tokens = 0
        self._sums = np.zeros(requests, np.float64)
        self._greedy = np.ones(requests, np.bool_)
        self._likeliest = np.zeros(requests, np.int64)

    def add(self, row: Row, chances: NDArray[Any], best: NDArray[Any]) -> None:
        """Take in a row's log-probabilities [S], and the likeliest token in each place [S]."""
        np.add.at(self._sums, row.requests, chances)
        np.logical_and.at(self._greedy, row.requests, best == row.targets)
        self._likeliest[row.requests] = best  # in order: of each request the last one stays

    def scores(self) -> Scores:
        """Of all requests, once each row has been added."""
        return Scores(
            self._sums.tolist(), self._greedy.tolist(), self._likeliest.tolist(), self.tokens
        )
