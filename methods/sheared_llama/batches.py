"""What a DataLoader reads: drawn batches for training, and every row in turn for evaluation.

Shapes: B rows of a batch on all ranks together, b of one rank, T tokens a row.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from espalier.errors import InputError
from methods.sheared_llama.domains import Source, require_rows
from methods.sheared_llama.sampler import DomainSampler, Draw

Batch = dict[str, Tensor]
"""`input_ids` int64 [b, T] and `domains` int64 [b]."""


class DomainBatches(IterableDataset[Batch]):  # type: ignore[misc]
    """A rank's part of every batch that a sampler draws, without an end.

    Proportions that change hold from the next batch on: what was read ahead is drawn again.
    Composer saves and loads its state with its checkpoints, as it does StreamingDataset's.

    Args:
        sources: the domains, in the sampler's order.
        sampler: on every rank alike.
        rank: which part: rows rank * b to (rank + 1) * b.
        world: how many ranks.
        ahead: so many batches are read ahead, each on a thread; it changes no batch.
        announce: is told the name of a domain that ran out, and which epoch it begins.

    Raises:
        InputError: a source is empty, rows differ in length, or B does not divide by the ranks.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        sampler: DomainSampler,
        *,
        rank: int = 0,
        world: int = 1,
        ahead: int = 1,
        announce: Callable[[str, int], None] = lambda name, epoch: None,
    ) -> None:
        require_rows(sources)
        require_even(sampler.batch, world)
        self.sampler = sampler
        self._sources = list(sources.values())
        self._part = slice(rank * (size := sampler.batch // world), (rank + 1) * size)
        self._ahead, self._announce = ahead, announce

    def loader(self) -> "DataLoader[Batch]":
        """A DataLoader of these batches, which draws no random number of the process's."""
        return DataLoader(self, batch_size=None, generator=torch.Generator())

    def __iter__(self) -> Iterator[Batch]:
        """Batches from where the sampler is.

        Raises:
            InputError: in a worker process, which would not hear of new proportions.
        """
        if get_worker_info() is not None:
            raise InputError("batches by domain are read on threads; give the loader no workers.")
        read: deque[tuple[Draw, object, Future[Batch]]] = deque()
        with ThreadPoolExecutor(max(1, self._ahead), "domains") as readers:
            while True:
                if read and not self._holds(read[0][0], read[0][1]):
                    read.clear()
                while len(read) <= self._ahead:
                    draw = self.sampler.draw(read[-1][0].after if read else None)
                    future = readers.submit(self._read, draw)
                    read.append((draw, self.sampler.proportions, future))
                draw, _, future = read.popleft()
                batch = future.result()
                self.sampler.advance(draw)
                for name, epoch in draw.restarted.items():
                    self._announce(name, epoch)
                yield batch

    def _holds(self, draw: Draw, proportions: object) -> bool:
        """Whether the sampler would still draw that."""
        return draw.before == self.sampler.place and proportions is self.sampler.proportions

    def _read(self, draw: Draw) -> Batch:
        domains, rows = draw.domains[self._part], draw.rows[self._part]
        pairs = zip(domains.tolist(), rows.tolist(), strict=True)
        ids = np.stack([self._sources[domain][row] for domain, row in pairs])
        return {"input_ids": torch.from_numpy(ids), "domains": torch.from_numpy(domains.copy())}

    def state_dict(self, num_samples: int = 0, from_beginning: bool = True) -> dict[str, Any]:
        """Where the sampler is: behind the last batch that was handed out.

        Composer's arguments say how many samples that were; the sampler counts them itself.
        """
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there.

        Raises:
            InputError: it is the state of another run.
        """
        self.sampler.load_state_dict(state)


def require_even(rows: int, world: int) -> None:
    """Refuse a batch that ranks cannot share equally.

    Raises:
        InputError: it does not divide among them.
    """
    if rows % world:
        raise InputError(
            f"a batch of {rows} sequences does not divide among {world} processes; "
            f"give a multiple of {world}."
        )


class EveryRow(Dataset[Batch]):  # type: ignore[misc]
    """The first rows of each domain, one domain after the other, to evaluate on.

    Args:
        sources: the domains.
        most: so many rows of each at most; None: all.
    """

    def __init__(self, sources: Mapping[str, Source], most: int | None = None) -> None:
        require_rows(sources)
        self._sources = list(sources.values())
        counts = [
            len(source) if most is None else min(most, len(source)) for source in self._sources
        ]
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Batch:
        """`input_ids` int64 [T] and `domains` int64 []; a loader stacks them.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        domain = int(np.searchsorted(self._ends, index, side="right"))
        row = self._sources[domain][index - (self._ends[domain - 1] if domain else 0)]
        return {"input_ids": torch.from_numpy(row.copy()), "domains": torch.tensor(domain)}
