"""Why a request has another answer in one evaluation than in the other: texts, tokens, numbers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from eval.samples.sample import PAIR, Sample

ROWS, REQUESTS = "rows", "requests"
PROMPTS, CONTINUATIONS = "prompts", "continuations"
BEGIN, TOKENS = "begin token", "tokens"
LIKELIHOODS, GENERATED, TIES = "log-likelihoods", "generated texts", "near ties"
METRIC = "metric"
ORDER = (
    *(ROWS, REQUESTS, PROMPTS, CONTINUATIONS, BEGIN, TOKENS),
    *(LIKELIHOODS, GENERATED, TIES, METRIC),
)
"""Causes; what comes first on the way from rows to a score stands first."""
TOLERANCE, RELATIVE = 1e-3, 1e-5
"""Log-likelihoods that are no further from each other are the same; those of long texts are large,
and no further by this share."""
BEFORE, SHOWN = 12, 44
"""Letters of a text that are shown before the first that differs, and in all."""


@dataclass(frozen=True)
class Cause:
    """One thing that differs.

    Attributes:
        documents: in how many; 0 where it is not of single ones.
        first: how, in the first of them.
    """

    name: str
    documents: int
    first: str


def is_same_text(one: Sample, other: Sample) -> bool:
    """Whether both ask about the same."""
    asked = [(each.context, each.continuation, each.text) for each in (one, other)]
    return asked[0] == asked[1]


def distance(one: Sample, other: Sample) -> float:
    """Between two log-likelihoods; none where there are none."""
    return abs((one.loglikelihood or 0.0) - (other.loglikelihood or 0.0))


def differences(one: Sample, other: Sample) -> Iterator[tuple[str, str]]:
    """What differs between two requests of one kind, and how.

    Begin tokens are compared in any case, tokens where the texts are the same, and answers where
    all is the same that they follow from.
    """
    found = [*_of_texts(one, other), *_of_tokens(one, other)]
    yield from found
    if found:
        return
    first, second = one.loglikelihood or 0.0, other.loglikelihood or 0.0
    if not math.isclose(first, second, rel_tol=RELATIVE, abs_tol=TOLERANCE):
        yield LIKELIHOODS, f"{first:.4f} against {second:.4f}"
    if one.generated != other.generated:
        yield GENERATED, excerpts(one.generated, other.generated)


def _of_texts(one: Sample, other: Sample) -> Iterator[tuple[str, str]]:
    if one.text != other.text:
        yield PROMPTS, "another text"
    if one.context != other.context:
        yield PROMPTS, excerpts(one.context, other.context)
    if one.continuation != other.continuation:
        yield CONTINUATIONS, excerpts(one.continuation, other.continuation)


def _of_tokens(asked: Sample, beside: Sample) -> Iterator[tuple[str, str]]:
    one, other = asked.tokens, beside.tokens
    if one is None or other is None:
        return
    if one.begin != other.begin:
        first, second = (repr(each.begin) if each.begin else "none" for each in (one, other))
        yield BEGIN, f"{first} against {second}"
    parted = asked.kind == PAIR and one.continuation != other.continuation
    if is_same_text(asked, beside) and (parted or one.ids != other.ids):
        first, second = (f"{each.context} + {each.continuation}" for each in (one, other))
        yield TOKENS, f"{first} tokens against {second}"


def excerpts(one: str | None, other: str | None) -> str:
    """Where two texts begin to differ."""
    texts = [one or "", other or ""]
    letters = enumerate(zip(*texts, strict=False))
    first = next((place for place, (a, b) in letters if a != b), min(map(len, texts)))
    return " against ".join(_excerpt(text, max(0, first - BEFORE)) for text in texts)


def _excerpt(text: str, start: int) -> str:
    end = start + SHOWN
    return repr("…" * (start > 0) + text[start:end] + "…" * (len(text) > end))
