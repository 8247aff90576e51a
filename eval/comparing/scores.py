"""A task's scores in two evaluations, and whether what was asked and answered explains them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eval.comparing.causes import METRIC, ROWS, Cause
from eval.comparing.task import TaskComparison
from eval.headline import ALSO, USUAL, named_key

OF_CHOICES = ("acc", "acc_norm")
"""Metrics that are the share of the documents whose choice is right."""
TOLERANCE = 1e-6
CLOSE = 1e-4
"""The share by which other metrics may be apart though all log-likelihoods count as the same: of a
perplexity as much as RELATIVE moves it, where its logarithm is at most 10."""


@dataclass(frozen=True)
class Value:
    """A score in one evaluation; `error` is None where nobody can tell it."""

    value: float
    error: float | None


@dataclass(frozen=True)
class Score:
    """One metric of a task in two evaluations; None where one has no such metric."""

    metric: str
    one: Value | None
    other: Value | None


def scores(one: Mapping[str, Any], other: Mapping[str, Any], task: str) -> list[Score]:
    """The metrics of a task that count in either of two results."""
    keys = dict.fromkeys(key for results in (one, other) for key in _keys(results, task))
    first, second = one["results"][task], other["results"][task]
    return [Score(key.partition(",")[0], _value(first, key), _value(second, key)) for key in keys]


def of_the_metric(score: Score, task: TaskComparison) -> Cause | None:
    """What differs where what was asked and answered cannot be all.

    Another choice in n documents moves a share of them by n at most; another metric has another
    value for no reason only where nothing else differs.
    """
    if score.one is None or score.other is None:
        whose = "the second" if score.one is None else "the first"
        return Cause(METRIC, 0, f"{whose} alone has {score.metric}")
    if ROWS in task.causes:
        return None
    if score.metric in OF_CHOICES:
        moved = abs(score.one.value - score.other.value) * task.documents
        explained = moved <= task.choices[score.metric] + TOLERANCE
    else:
        equal = math.isclose(score.one.value, score.other.value, rel_tol=CLOSE)
        explained = equal or bool(task.causes)
    return None if explained else Cause(METRIC, 0, f"{score.metric} of like answers differs")


def _keys(results: Mapping[str, Any], task: str) -> Iterator[str]:
    """The keys of what counts; of a task with nothing usual, all that it has."""
    values = results["results"][task]
    usual = [key for key in (*USUAL, *ALSO) if key in values]
    if named := named_key(results, task):
        yield named
    elif usual:
        yield from usual
    else:
        yield from (key for key in values if "," in key and "_stderr," not in key)


def _value(metrics: Mapping[str, Any], key: str) -> Value | None:
    metric, _, suffix = key.partition(",")
    error = metrics.get(f"{metric}_stderr,{suffix}")
    if key not in metrics:
        return None
    return Value(float(metrics[key]), error if isinstance(error, float) else None)
