"""What has been packed so far, kept after every block so that an interrupted run resumes there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from espalier.contract.files import write_text
from espalier.data.tokens.index import SPLITS, Split, SplitIndex
from espalier.data.tokens.writer import Size, SplitWriter

STATE = "place.json"


class Position(BaseModel):
    """How far the text is read, and what is written of each split.

    Attributes:
        part: the file that is being read.
        documents: those read of it.
        empty: documents without a token, which are left out.
        framed: documents from which BOS or EOS were taken out, which the tokenizer had given.
        lowest: the place (`packing.place_of`) of the document that a larger VALID holds out first.
        bad: documents that could not be used and were skipped, and the first of them.
        enough: nothing more is wanted, or there is no more.
    """

    part: int = 0
    documents: int = 0
    empty: int = 0
    framed: int = 0
    lowest: float = 1.0
    bad: int = 0
    first_bad: str | None = None
    enough: bool = False
    sizes: dict[Split, list[Size]] = {}


class Work:
    """The splits' writers and the place in the text, always saved together."""

    def __init__(self, folder: Path, dtype: "np.dtype[Any]", limit: int) -> None:
        self._folder = folder
        try:
            self.place = Position.model_validate_json((folder / STATE).read_bytes())
            self._writers = self._open(dtype, limit)
        except (OSError, ValidationError):  # none yet, or a crash has lost a part of it
            self.place = Position()
            self._writers = self._open(dtype, limit)

    def tokens(self, split: Split) -> int:
        """Tokens written of a split."""
        return self._writers[split].tokens

    def append(self, documents: Mapping[Split, Sequence[npt.NDArray[Any]]]) -> None:
        """Write documents; they count once the place is saved."""
        for split, found in documents.items():
            self._writers[split].append(found)

    def save(self, **changes: Any) -> None:
        """Keep what is written, and the place after it."""
        sizes = {split: writer.sizes for split, writer in self._writers.items()}
        self.place = self.place.model_copy(update={**changes, "sizes": sizes})
        write_text(self._folder / STATE, self.place.model_dump_json())

    def hashed(self) -> dict[Split, SplitIndex]:
        """End all shards and hash them, which may take a while."""
        return {split: writer.finish() for split, writer in self._writers.items()}

    def move(self, splits: Mapping[Split, SplitIndex], target: Path) -> None:
        """Move the shards that have been hashed to `target`, which takes no time."""
        for split, index in splits.items():
            self._writers[split].move(index, target)

    def _open(self, dtype: "np.dtype[Any]", limit: int) -> dict[Split, SplitWriter]:
        return {
            split: SplitWriter(self._folder, split, dtype, limit, self.place.sizes.get(split, ()))
            for split in SPLITS
        }
