"""Token data as ArrayRecord, read by grain in the order that every trainer has.

Shapes: B sequences of a batch on this process, L tokens a sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np
import numpy.typing as npt

from espalier.contract.manifest import check_files, read_manifest
from espalier.contract.processes import Share
from espalier.data.tokens.example import parsed
from espalier.errors import InputError
from training.maxtext_model.devices import agreed
from training.protocol.order import Order

SUFFIX = "arrayrecord"
AHEAD = 4
"""Batches that are read before they are asked for."""
Rows = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Records:
    """An export of token data: rows of L + 1 tokens, the last of them only a target.

    Attributes:
        tokenizer: the hash of the one that made the ids.
        vocabulary: ids are smaller than this.
        rows: of each split.
    """

    directory: Path
    tokenizer: str
    vocabulary: int
    seqlen: int
    rows: dict[str, int]

    @classmethod
    def of(cls, directory: Path) -> "Records":
        """Read what the export's manifest says.

        Raises:
            InputError: it is no such export.
        """
        manifest = read_manifest(directory)
        asked, facts = manifest.parameters, manifest.data or {}
        if asked.get("format") != SUFFIX or not asked.get("targets") or "domains" in facts:
            raise InputError(
                f"{directory} is not an ArrayRecord export of one stream with targets; make one "
                "with make export FORMAT=arrayrecord SEQLEN=<tokens> TARGETS=1."
            )
        return cls(
            directory, facts["tokenizer"], facts["vocabulary"], asked["seqlen"], facts["rows"]
        )

    def verify(self, share: Share) -> None:
        """Hash the files, each process its share of them.

        Raises:
            InputError: on every process, where a file is not what was published.
        """
        found = None
        try:
            check_files(self.directory, share.rank, share.world)
        except InputError as error:
            found = error
        if agreed(found is not None):
            raise found or InputError(f"{self.directory} is damaged, as another process has said.")

    def source(self, split: str) -> Any:
        """Random access to a split's serialized rows."""
        return grain.sources.ArrayRecordDataSource(
            sorted(map(str, self.directory.glob(f"{split}-*.{SUFFIX}")))
        )


class Samples:
    """A process's rows of every step in a row, as grain asks for them by number."""

    def __init__(
        self, records: Records, order: Order, batch: int, steps: int, share: Share
    ) -> None:
        self._source, self._order = records.source("train"), order
        self._batch, self._steps, self._share = batch, steps, share
        self._records = records

    @property
    def per_step(self) -> int:
        return self._batch // self._share.world

    def __len__(self) -> int:
        return self._steps * self.per_step

    def __getitem__(self, number: Any) -> Rows:
        step, row = divmod(int(number), self.per_step)
        first, _ = self._share.of(step * self._batch, (step + 1) * self._batch)
        window = int(self._order.windows_of(first + row, first + row + 1)[0])
        return checked(self._source[window], self._records)


def checked(record: bytes, records: Records) -> Rows:
    """A row of ids int32 [L + 1].

    Raises:
        InputError: it has another length, or a token outside the vocabulary.
    """
    ids = parsed(record)
    if len(ids) != records.seqlen + 1 or not 0 <= ids.min() <= ids.max() < records.vocabulary:
        raise InputError(
            f"{records.directory} holds a row that its manifest does not describe; export the data "
            "again with FORCE=1."
        )
    return ids.astype(np.int32)


def batches(samples: Samples, first: int) -> Iterator[Rows]:
    """Rows int32 [B, L + 1] of the steps from `first`, read ahead on threads."""
    if first * samples.per_step == len(samples):
        return iter(())
    rows = grain.MapDataset.source(samples)[first * samples.per_step :]
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=AHEAD * samples.per_step)
    return iter(rows.batch(samples.per_step).to_iter_dataset(options))


def as_inputs(rows: Rows, counted: npt.NDArray[np.bool_] | None = None) -> dict[str, Rows]:
    """What MaxText's step takes, each int32 [B, L], of rows [B, L + 1].

    `counted`, bool [B], says which rows' targets count; all do without it.
    """
    inputs, targets = rows[:, :-1].copy(), rows[:, 1:].copy()  # of one row, no views of each other
    positions = np.broadcast_to(np.arange(inputs.shape[1], dtype=np.int32), inputs.shape)
    ones = np.ones_like(inputs)
    counts = ones.copy() if counted is None else ones * counted[:, None].astype(np.int32)
    return {
        "inputs": inputs,
        "inputs_position": positions.copy(),
        "inputs_segmentation": ones,
        "targets": targets,
        "targets_position": positions.copy(),
        "targets_segmentation": counts,
    }
