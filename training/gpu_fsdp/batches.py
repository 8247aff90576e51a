"""Which tokens each step trains on: an order that no number of ranks changes.

Shapes: B sequences, L tokens a sequence.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from espalier.contract.processes import Share
from espalier.data.tokens.index import Split
from espalier.data.tokens.reader import TokenData
from espalier.errors import InputError
from training.gpu_fsdp.loss import IGNORED
from training.protocol.order import Order


@dataclass(frozen=True)
class Sequences:
    """B sequences as tensors.

    Attributes:
        inputs: int64 [B, L].
        targets: int64 [B, L], each the token after its input.
        positions: int64 [B, L] that start again with each document; None: the whole is one.
        several: which hold more than one document, bool [B], on the host; None: none does.
    """

    inputs: Tensor
    targets: Tensor
    positions: Tensor | None
    several: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def split(self, size: int) -> Iterator["Sequences"]:
        """In parts of `size` sequences."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            positions = None if self.positions is None else self.positions[part]
            several = None if self.several is None else self.several[part]
            yield Sequences(self.inputs[part], self.targets[part], positions, several)

    def to(self, device: str) -> "Sequences":
        """On another device."""
        positions = None if self.positions is None else self.positions.to(device)
        inputs, targets = self.inputs.to(device), self.targets.to(device)
        return Sequences(inputs, targets, positions, self.several)

    def counting(self, counted: Tensor) -> "Sequences":
        """The same with only the targets of some sequences in sums: `counted`, bool [B]."""
        targets = self.targets.masked_fill(~counted[:, None], IGNORED)
        return Sequences(self.inputs, targets, self.positions, self.several)

    @property
    def packed(self) -> bool:
        """Whether any holds more than one document; no device is asked."""
        return self.several is not None and bool(self.several.any())


class Windows:
    """A split as windows of L tokens; a window's last target is the next one's first token."""

    def __init__(self, data: TokenData, split: Split, seqlen: int, document_mask: bool) -> None:
        self._stream = data.stream(split)
        self._seqlen, self._masked = seqlen, document_mask
        self._vocabulary, self._name = data.index.vocabulary, f"{data.directory} ({split})"
        self.count = max(0, self._stream.index.tokens - 1) // seqlen

    def read(self, numbers: npt.NDArray[np.int64]) -> Sequences:
        """The windows of those numbers [B].

        Raises:
            InputError: a token lies outside the vocabulary.
        """
        length = self._seqlen
        rows = [self._stream.slice(n * length, (n + 1) * length + 1) for n in map(int, numbers)]
        ids = torch.from_numpy(np.stack(rows).astype(np.int64))  # [B, L + 1]
        if int(ids.max()) >= self._vocabulary:
            raise InputError(
                f"{self._name} holds token {int(ids.max())} and its vocabulary ends at "
                f"{self._vocabulary}; make the data again with FORCE=1."
            )
        positions = several = None
        if self._masked:
            positions = torch.stack([self._positions(n) for n in map(int, numbers)])
            several = positions.diff(dim=-1).ne(1).any(-1).numpy()
        # Copies: of a single row both parts are contiguous, and would be views of one memory.
        return Sequences(_copied(ids[:, :-1]), _copied(ids[:, 1:]), positions, several)

    def _positions(self, number: int) -> Tensor:
        first = number * self._seqlen
        starts = torch.from_numpy(self._stream.boundaries(first, first + self._seqlen))
        place = torch.arange(self._seqlen)
        began = torch.zeros(self._seqlen, dtype=torch.int64)
        began[starts] = starts
        return place - torch.cummax(began, 0).values


def _copied(part: Tensor) -> Tensor:
    return part.clone(memory_format=torch.contiguous_format)


class Numbered(Protocol):
    """Sequences that are read by their numbers."""

    def read(self, numbers: npt.NDArray[np.int64]) -> Sequences:
        """Those of these numbers [B]."""


class Batches:
    """A rank's sequences of each step, read one step ahead on a thread."""

    def __init__(self, windows: Numbered, order: Order, batch: int, share: Share) -> None:
        self._windows, self._order, self._batch, self._share = windows, order, batch, share

    def steps(self, first: int, end: int) -> Iterator[Sequences]:
        """Those of steps `first` to `end`."""
        with ThreadPoolExecutor(1, "batches") as reader:
            ahead = reader.submit(self._read, first)
            for step in range(first, end):
                sequences = ahead.result()
                if step + 1 < end:
                    ahead = reader.submit(self._read, step + 1)
                yield sequences

    def _read(self, step: int) -> Sequences:
        first, end = self._share.of(step * self._batch, (step + 1) * self._batch)
        return self._windows.read(self._order.windows_of(first, end))
