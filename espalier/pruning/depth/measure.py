"""Log-likelihoods of samples by a model, and by it without each block of layers.

Shapes: S samples, B samples of a batch, T tokens, H hidden, N scored tokens.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.progress import Steps
from espalier.contract.saved import note
from espalier.contract.stage import StageContext
from espalier.models.decoder import Decoder, Layer
from espalier.pruning.depth.cuts import Cut, chunk_tokens
from espalier.pruning.depth.depth_search import Front, states_without
from espalier.pruning.depth.fronts import Fronts
from espalier.pruning.depth.samples import (
    Answer,
    Answers,
    Part,
    Sample,
    by_sample,
    check_samples,
    chunks,
    merged,
)

STATE = "chunks.json"


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
    walks = Walks(context, decoder, samples, len(cuts), batch)
    answers = walks.without([None, *cuts])
    return answers[None], {cut: answers[cut] for cut in cuts}


class Walks:
    """The samples, in parts that are walked one after another; once or again and again."""

    def __init__(
        self,
        context: StageContext,
        decoder: Decoder,
        samples: Sequence[Sample],
        most_cuts: int,
        batch: int | None = None,
    ) -> None:
        """As `measure`, of at most so many cuts in one walk.

        Raises:
            InputError: there is nothing to predict.
        """
        check_samples(samples)
        self._scratch, self._progress, self._decoder = context.scratch, context.progress, decoder
        limit = chunk_tokens(most_cuts, self.token_bytes)
        self._chunks = list(chunks(samples, limit))
        self._parts = [
            Part.of([samples[index] for index in chunk], batch) for chunk in self._chunks
        ]

    @property
    def token_bytes(self) -> int:
        """Of one token's hidden state."""
        shapes = self._decoder.architecture.shapes
        return shapes.hidden * shapes.item_bytes

    @property
    def state_bytes(self) -> int:
        """Of the hidden states of all samples in front of one layer, at most."""
        return sum(part.positions for part in self._parts) * self.token_bytes

    def without(
        self,
        wanted: Sequence[Cut | None],
        removed: Sequence[int] = (),
        fronts: Fronts[list[Tensor]] | None = None,
        place: str = "",
    ) -> dict[Cut | None, Answers]:
        """Answers without each cut, and under None, where it is wanted, with nothing left out.

        Args:
            wanted: what is left out in turn.
            removed: layers that are gone for all of them.
            fronts: where walks may begin, and where they leave what they have passed.
            place: which of several measurements this is, such as `round 2 of 7`.

        Raises:
            InputError: the activations with nothing left out overflow.
        """
        fronts = fronts or Fronts()
        numbers = [n for n in range(self._decoder.num_layers) if n not in removed]
        done = _load(self._scratch, removed)
        self._scratch.mkdir(parents=True, exist_ok=True)
        count = len(self._parts)
        turns = [sum(n >= fronts.reached(part) for n in numbers) for part in range(count)]
        with (
            torch.inference_mode(),
            self._progress.steps(place or "score", sum(turns), sum(turns[: len(done)])) as steps,
        ):
            for index in range(len(done), count):
                streams = self._walk(index, numbers, wanted, fronts, steps)
                done.append(self._answers(index, streams, wanted))
                state = {"removed": list(removed), "done": done}
                write_text(self._scratch / STATE, to_json(state))
                more = len(done) < count
                part = f"part {len(done) + 1} of {count}" if more else "the last part's end"
                note(self._scratch, ", ".join(filter(None, (place, part))))
        order = [index for chunk in self._chunks for index in chunk]
        return {
            cut: merged(order, [part[stream] for part in done]) for stream, cut in enumerate(wanted)
        }

    def _walk(
        self,
        index: int,
        numbers: Sequence[int],
        wanted: Sequence[Cut | None],
        fronts: Fronts[list[Tensor]],
        steps: Steps,
    ) -> dict[Cut | None, list[Tensor]]:
        """The last hidden states of a part, of each stream and batch [B, T, H]."""
        embed = self._decoder.embed
        start = fronts.begin(index) or Front(
            0, {None: [embed(batch.inputs) for batch in self._parts[index].batches]}
        )

        def advance(layer: Layer, hidden: list[Tensor], cut: Cut | None) -> list[Tensor]:
            # Where layers are left out, an overflow is the answer: no finite score.
            run = layer.run if cut is None else layer.attempt
            return [run(part).cpu() for part in hidden]

        def layers() -> Iterator[Layer]:
            for layer in self._decoder.layers([n for n in numbers if n >= start.layer]):
                yield layer
                steps.advance(layer=layer.number)

        return states_without(layers(), start, wanted, advance, partial(fronts.offer, index))

    def _answers(
        self,
        index: int,
        streams: dict[Cut | None, list[Tensor]],
        wanted: Sequence[Cut | None],
    ) -> list[list[Answer]]:
        """Of each stream, each sample's answer; the streams are used up."""
        part, decoder = self._parts[index], self._decoder

        def scored(hidden: list[Tensor]) -> Tensor:
            """The normed states at the scored positions of all batches: [N, H]."""
            pairs = zip(hidden, part.batches, strict=True)
            return decoder.normed(torch.cat([h.flatten(0, 1)[b.places] for h, b in pairs]))

        # Taken out of the dictionary, a stream is freed as soon as its scored part is copied.
        normed = [scored(streams.pop(cut)) for cut in wanted]
        targets = torch.cat([batch.targets for batch in part.batches])
        answers = decoder.log_probabilities(normed, targets)
        return [by_sample(*answer, part.owners, part.samples) for answer in answers]


def _load(scratch: Path, removed: Sequence[int]) -> list[Any]:
    """The parts done of the measurement without these layers."""
    try:
        state = json.loads((scratch / STATE).read_text())
        return list(state["done"]) if state["removed"] == list(removed) else []
    except (OSError, ValueError, LookupError, TypeError):
        return []
