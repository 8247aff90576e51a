"""Log-likelihoods of samples by a model, and by it without each block of layers.

Shapes: S samples, B samples of a batch, T tokens, H hidden, N scored tokens.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.saved import note
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.decoder import Decoder, Layer
from espalier.pruning.depth.cuts import Cut, chunk_tokens
from espalier.pruning.depth.depth_search import with_and_without
from espalier.pruning.parameters import default_batch

STATE = "chunks.json"
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

    def perplexity(self, tokens: int) -> float | None:
        """The exponential of the mean cross-entropy of windows with `tokens` predictions each.

        None where that is not finite.
        """
        mean = -sum(self.log_likelihoods) / (len(self.log_likelihoods) * tokens)
        return math.exp(mean) if mean < LARGEST else None


@dataclass(frozen=True)
class _Batch:
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
    def of(cls, samples: Sequence[Sample]) -> "_Batch":
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


def measure(
    context: StageContext,
    decoder: Decoder,
    samples: Sequence[Sample],
    cuts: Sequence[Cut],
    batch: int | None = None,
) -> tuple[Answers, dict[Cut, Answers]]:
    """The whole model's answers and those without each cut; a killed run resumes after its chunk.

    Args:
        context: its scratch folder keeps the chunks done.
        decoder: the model.
        samples: what is predicted.
        cuts: the blocks left out in turn.
        batch: samples a pass; None chooses by length. Decides speed, not the result.

    Raises:
        InputError: there is nothing to predict, or the whole model's activations overflow.
    """
    _check(samples)
    shapes = decoder.architecture.shapes
    limit = chunk_tokens(len(cuts), shapes.hidden * shapes.item_bytes)
    chunks = list(_chunks(samples, limit))
    done = _load(context.scratch)
    context.scratch.mkdir(parents=True, exist_ok=True)
    layers = decoder.num_layers
    with (
        torch.inference_mode(),
        context.progress.steps("score", len(chunks) * layers, len(done) * layers) as steps,
    ):
        for chunk in chunks[len(done) :]:
            rows = [samples[index] for index in chunk]
            done.append(_measure_chunk(decoder, rows, cuts, batch, steps.advance))
            write_text(context.scratch / STATE, to_json(done))
            more = len(done) < len(chunks)
            place = f"part {len(done) + 1} of {len(chunks)}" if more else "the last part's end"
            note(context.scratch, place)
    order = [index for chunk in chunks for index in chunk]
    merged = [_merged(order, [chunk[stream] for chunk in done]) for stream in range(len(cuts) + 1)]
    return merged[0], dict(zip(cuts, merged[1:], strict=True))


def _check(samples: Sequence[Sample]) -> None:
    if not samples:
        raise InputError("there is nothing to score; give a text, or rows of the task.")
    for number, sample in enumerate(samples):
        if not 0 < sample.scored < len(sample.tokens):
            raise InputError(
                f"sample {number} has {len(sample.tokens)} tokens of which {sample.scored} are to "
                "be predicted; it must be one or more, from at least one before them."
            )


def _measure_chunk(
    decoder: Decoder,
    samples: Sequence[Sample],
    cuts: Sequence[Cut],
    batch: int | None,
    advanced: Any,
) -> list[list[Answer]]:
    """For the whole model and each cut, each sample's answer."""
    size = batch or default_batch(max(len(sample.tokens) for sample in samples))
    batches = [_Batch.of(samples[i : i + size]) for i in range(0, len(samples), size)]

    def advance(layer: Layer, hidden: list[Tensor], cut: Cut | None) -> list[Tensor]:
        # Where layers are left out, an overflow is the answer: no finite score.
        run = layer.run if cut is None else layer.attempt
        return [run(part).cpu() for part in hidden]

    def layers() -> Iterator[Layer]:
        for layer in decoder.layers():
            yield layer
            advanced(layer=layer.number)

    start = [decoder.embed(part.inputs) for part in batches]
    whole, without = with_and_without(layers(), start, cuts, advance)

    def scored(hidden: list[Tensor]) -> Tensor:
        """The normed states at the scored positions of all batches: [N, H]."""
        pairs = zip(hidden, batches, strict=True)
        return decoder.normed(torch.cat([h.flatten(0, 1)[b.places] for h, b in pairs]))

    # Taken out of the dictionary, a stream is freed as soon as its scored part is copied.
    normed = [scored(whole), *(scored(without.pop(cut)) for cut in cuts)]
    targets = torch.cat([part.targets for part in batches])
    answers = decoder.log_probabilities(normed, targets)
    owners = torch.cat([part.owners + i * size for i, part in enumerate(batches)])
    return [_by_sample(*answer, owners, len(samples)) for answer in answers]


def _by_sample(
    log_probabilities: Tensor, most_probable: Tensor, owners: Tensor, count: int
) -> list[Answer]:
    """Sums [N] float64 and conjunctions [N] over each sample's tokens."""
    sums = torch.zeros(count, dtype=torch.float64)
    sums.index_add_(0, owners, log_probabilities.double())
    missed = torch.zeros(count, dtype=torch.int64)
    missed.index_add_(0, owners, (~most_probable).long())
    finite = [value if math.isfinite(value) else None for value in sums.tolist()]
    return list(zip(finite, (missed == 0).tolist(), strict=True))


def _chunks(samples: Sequence[Sample], limit: int) -> Iterator[list[int]]:
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


def _merged(order: Sequence[int], parts: Sequence[Sequence[Sequence[Any]]]) -> Answers:
    """Answers in the samples' own order."""
    flat = [answer for part in parts for answer in part]
    sums, greedy = [math.nan] * len(order), [False] * len(order)
    for index, (value, missed_none) in zip(order, flat, strict=True):
        sums[index], greedy[index] = math.nan if value is None else value, missed_none
    return Answers(sums, greedy)


def _load(scratch: Path) -> list[Any]:
    try:
        return list(json.loads((scratch / STATE).read_text()))
    except (OSError, ValueError):
        return []
