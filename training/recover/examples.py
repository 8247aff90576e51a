"""Sequences of unequal lengths: what of them counts in the loss, and which are held out.

Shapes: B sequences, L tokens of the longest.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.gpu_fsdp.batches import Numbered, Sequences
from training.gpu_fsdp.loss import IGNORED

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Examples:
    """Token ids that are read by their number, padded on the right up to the longest of a batch.

    Nothing that counts sees the padding, which comes after it.

    Attributes:
        ids: of each sequence, int32 [tokens + 1]: the last one is a target alone.
        given: how many ids a sequence begins with that are no targets, int64 [sequences].
    """

    ids: Sequence[Ids]
    given: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens that the model reads of each, int64 [sequences]."""
        return np.fromiter((len(ids) - 1 for ids in self.ids), np.int64, len(self.ids))

    @property
    def sha256(self) -> str:
        """Of all ids, int64, one sequence after the other."""
        digest = hashlib.sha256()
        for ids in self.ids:
            digest.update(ids.astype("<i8").tobytes())
        return digest.hexdigest()

    def of(self, numbers: npt.NDArray[np.int64]) -> "Examples":
        """Some of them, in that order."""
        return Examples([self.ids[number] for number in numbers], self.given[numbers])

    def read(self, numbers: npt.NDArray[np.int64]) -> Sequences:
        """Those of these numbers [B]; a target that does not count is IGNORED."""
        longest = max(len(self.ids[number]) for number in numbers) - 1
        inputs = torch.zeros((len(numbers), longest), dtype=torch.int64)  # [B, L]
        targets = torch.full_like(inputs, IGNORED)
        for row, number in enumerate(numbers):
            ids = torch.from_numpy(self.ids[number].astype(np.int64))
            first = max(0, int(self.given[number]) - 1)
            inputs[row, : len(ids) - 1] = ids[:-1]
            targets[row, first : len(ids) - 1] = ids[first + 1 :]
        return Sequences(inputs, targets, None)


def trimmed(sequences: Sequences) -> Sequences:
    """The same without the tokens at the end that count in none of them."""
    counted = (sequences.targets != IGNORED).any(0).nonzero()
    end = int(counted.max()) + 1
    return Sequences(sequences.inputs[:, :end], sequences.targets[:, :end], sequences.positions)


@dataclass(frozen=True)
class Data:
    """What is trained on, and what is held out.

    Attributes:
        kind: `instructions`, `text` or `tokens`.
        train: the sequences of the steps.
        lengths: tokens of each of them, int64 [sequences].
        valid: those held out; None: none are.
        held_out: how many.
        seqlen: tokens of the longest.
        notices: what the user is to know of it, a line each.
        record: what the manifest says of it.
    """

    kind: str
    train: Numbered
    lengths: npt.NDArray[np.int64]
    valid: Numbered | None
    held_out: int
    seqlen: int
    notices: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
