"""What is predicted, in batches and parts, and what a model's predictions come to.

Shapes: S samples, B samples of a batch, T tokens, N scored tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from espalier.errors import InputError
from espalier.pruning.parameters import default_batch

LARGEST = math.log(1e300)
Answer = tuple[float | None, bool]
"""A sample's log-likelihood, None where it is not finite, and whether it was greedy."""


@dataclass(frozen=True)
class Sample:
    """Tokens int64 [T + 1], the last `scored` of which are predicted from those before them."""

    tokens: Tensor
    scored: int


@dataclass
class Answers:
    """What one model says of the samples.

    Attributes:
        log_likelihoods: sum over a sample's scored tokens; NaN where that is not finite.
        greedy: whether each of them was the most probable.
    """

    log_likelihoods: list[float]
    greedy: list[bool]

    def cross_entropy(self, tokens: int) -> float | None:
        """The mean over windows with `tokens` predictions each, in nats; None: it is not finite."""
        mean = -sum(self.log_likelihoods) / (len(self.log_likelihoods) * tokens)
        return mean if math.isfinite(mean) else None

    def perplexity(self, tokens: int) -> float | None:
        """The exponential of the cross-entropy; None where that is not finite."""
        mean = self.cross_entropy(tokens)
        return math.exp(mean) if mean is not None and mean < LARGEST else None


@dataclass(frozen=True)
class Batch:
    """Some samples side by side; after the shorter ones comes padding, which nothing looks back on.

    Attributes:
        inputs: int64 [B, T].
        places: which of the B * T positions are scored, int64 [N].
        targets: what comes next there, int64 [N].
        owners: the sample, by its place in the batch, int64 [N].
    """

    inputs: Tensor
    places: Tensor
    targets: Tensor
    owners: Tensor

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Batch":
        """Samples side by side, as wide as the longest."""
        width = max(len(sample.tokens) for sample in samples) - 1
        inputs = torch.zeros((len(samples), width), dtype=torch.int64)
        places, targets, owners = [], [], []
        for row, sample in enumerate(samples):
            length = len(sample.tokens) - 1
            inputs[row, :length] = sample.tokens[:-1]
            places.append(row * width + torch.arange(length - sample.scored, length))
            targets.append(sample.tokens[-sample.scored :])
            owners.append(torch.full((sample.scored,), row))
        return cls(inputs, torch.cat(places), torch.cat(targets), torch.cat(owners))


@dataclass(frozen=True)
class Part:
    """Samples that are walked at a time.

    Attributes:
        batches: the samples side by side.
        owners: by scored token of all batches the sample, by its place in the part, int64 [N].
        samples: how many.
    """

    batches: list[Batch]
    owners: Tensor
    samples: int

    @classmethod
    def of(cls, samples: Sequence[Sample], batch: int | None) -> "Part":
        """Samples in batches of `batch`; None chooses by length."""
        size = batch or default_batch(max(len(sample.tokens) for sample in samples))
        batches = [Batch.of(samples[i : i + size]) for i in range(0, len(samples), size)]
        owners = torch.cat([part.owners + i * size for i, part in enumerate(batches)])
        return cls(batches, owners, len(samples))

    @property
    def positions(self) -> int:
        """Tokens, the padding among them."""
        return sum(batch.inputs.numel() for batch in self.batches)


def check_samples(samples: Sequence[Sample]) -> None:
    """Refuse samples of which nothing can be predicted.

    Raises:
        InputError: there are none, or one is too short for what is to be predicted of it.
    """
    if not samples:
        raise InputError("there is nothing to score; give a text, or rows of the task.")
    for number, sample in enumerate(samples):
        if not 0 < sample.scored < len(sample.tokens):
            raise InputError(
                f"sample {number} has {len(sample.tokens)} tokens of which {sample.scored} are to "
                "be predicted; it must be one or more, from at least one before them."
            )


def by_sample(
    log_probabilities: Tensor, most_probable: Tensor, owners: Tensor, count: int
) -> list[Answer]:
    """Sums [N] float64 and conjunctions [N] over each sample's tokens."""
    sums = torch.zeros(count, dtype=torch.float64)
    sums.index_add_(0, owners, log_probabilities.double())
    missed = torch.zeros(count, dtype=torch.int64)
    missed.index_add_(0, owners, (~most_probable).long())
    finite = [value if math.isfinite(value) else None for value in sums.tolist()]
    return list(zip(finite, (missed == 0).tolist(), strict=True))


def chunks(samples: Sequence[Sample], limit: int) -> Iterator[list[int]]:
    """Indices of samples of like length, the longest first, of at most `limit` tokens a chunk."""
    order = sorted(range(len(samples)), key=lambda index: -len(samples[index].tokens))
    chunk: list[int] = []
    for index in order:
        width = len(samples[(chunk or [index])[0]].tokens)
        if chunk and (len(chunk) + 1) * width > limit:
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk


def merged(order: Sequence[int], parts: Sequence[Sequence[Sequence[Any]]]) -> Answers:
    """Answers in the samples' own order."""
    flat = [answer for part in parts for answer in part]
    sums, greedy = [math.nan] * len(order), [False] * len(order)
    for index, (value, missed_none) in zip(order, flat, strict=True):
        sums[index], greedy[index] = math.nan if value is None else value, missed_none
    return Answers(sums, greedy)
