"""What was asked of a document in one evaluation, beside what was asked of it in another."""

from collections.abc import Iterable, Sequence
from typing import Any

from eval.samples.sample import GENERATION, PAIR, Sample

Document = Sequence[Sample]
"""The requests that were made of one document, in their order."""
Pairs = list[tuple[Sample, Sample]]
BY_LETTERS = "acc_norm"
"""The metric that takes the likeliest answer by its letters; every other takes it as it is."""


def documents(samples: Iterable[Sample]) -> dict[int, Document]:
    """A task's documents by their lines."""
    found: dict[int, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.document, []).append(sample)
    return {line: sorted(found[line], key=lambda one: one.request) for line in sorted(found)}


def paired(one: Document, other: Document) -> Pairs | None:
    """The requests of a document in one evaluation with those of the other.

    The same answer belongs to the same answer, whatever place each has: one harness asks for yes
    first and another for no. Where answers are not told apart by their texts, places decide.

    Returns:
        None where they are not as many, or of other kinds.
    """
    if [sample.kind for sample in one] != [sample.kind for sample in other]:
        return None
    found, wanted = (dict(zip(map(_answer, each), each, strict=True)) for each in (one, other))
    if found.keys() == wanted.keys() and len(found) == len(one):
        return [(sample, wanted[answer]) for answer, sample in found.items()]
    return list(zip(one, other, strict=True))


def choice(requests: Document, metric: str) -> Any:
    """What a model has chosen: the place of an answer, or what it would have said; None: nothing.

    Args:
        requests: of one document; those of two evaluations in the order of their pairs.
        metric: `acc`, `acc_norm` or another.
    """
    first, *others = requests
    if first.kind == GENERATION:
        return tuple(sample.generated for sample in requests)
    if first.kind != PAIR:
        return None
    if not others:
        return first.greedy
    weights = [_letters(sample) if metric == BY_LETTERS else 1 for sample in requests]
    values = [s.loglikelihood or 0.0 for s in requests]
    likelihoods = [value / weight for value, weight in zip(values, weights, strict=True)]
    return likelihoods.index(max(likelihoods))


def _answer(sample: Sample) -> str | None:
    return None if sample.continuation is None else sample.continuation.strip()


def _letters(sample: Sample) -> int:
    """An answer's letters as harnesses count them: without the blank that parts it from before."""
    return max(1, len((sample.continuation or "").removeprefix(" ")))
