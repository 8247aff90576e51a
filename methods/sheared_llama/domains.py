"""The texts of each domain as rows of tokens: whatever they lie in, a source counts and reads them.

Shapes: T tokens a row.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from espalier.data.tokens.index import Split
from espalier.data.tokens.reader import TokenData
from espalier.errors import InputError

Row = npt.NDArray[np.int64]


class Source(Protocol):
    """One domain's rows. They are read from several threads at once."""

    @property
    def seqlen(self) -> int:
        """T."""

    def __len__(self) -> int:
        """How many rows."""

    def __getitem__(self, index: int) -> Row:
        """Tokens of a row, int64 [T]."""


class ArraySource:
    """Rows held in memory.

    Args:
        rows: token ids [N, T], any integers.
    """

    def __init__(self, rows: npt.ArrayLike) -> None:
        self._rows = np.asarray(rows).astype(np.int64)

    @property
    def seqlen(self) -> int:
        """T."""
        return int(self._rows.shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        row: Row = self._rows[index]
        return row


class TokenSource:
    """A split of token data as whole windows of T tokens; nothing is held in memory."""

    def __init__(self, data: TokenData, split: Split, seqlen: int) -> None:
        self._data, self._split, self.seqlen = data, split, seqlen

    def __len__(self) -> int:
        return self._data.windows(self._split, self.seqlen)

    def __getitem__(self, index: int) -> Row:
        """Tokens of a window, int64 [T].

        Raises:
            IndexError: there is no such window.
            InputError: a token lies outside the vocabulary.
        """
        row = self._data.window(self._split, index, self.seqlen).astype(np.int64)
        if int(row.max()) >= self._data.index.vocabulary:
            raise InputError(
                f"{self._data.directory} holds token {int(row.max())} and its vocabulary ends at "
                f"{self._data.index.vocabulary}; make the data again with FORCE=1."
            )
        return row


def token_sources(
    directory: Path, domains: Sequence[str], split: Split, seqlen: int
) -> dict[str, Source]:
    """Token data of several domains: a folder each, `<directory>/<domain>`.

    Raises:
        InputError: a domain has no folder, no such split, or no whole row.
    """
    found: dict[str, Source] = {}
    for name in domains:
        if not (directory / name).is_dir():
            raise InputError(f"{directory} has no domain {name}; make the data with that folder.")
        found[name] = TokenSource(TokenData(directory / name), split, seqlen)
    require_rows(found)
    return found


def require_rows(sources: Mapping[str, Source]) -> None:
    """Refuse domains that cannot be drawn from.

    Raises:
        InputError: there is none, one has no row, or their rows are of different lengths.
    """
    if not sources:
        raise InputError("the data has no domain; make it of a folder for each domain.")
    empty = [name for name, source in sources.items() if not len(source)]
    if empty:
        raise InputError(
            f"{', '.join(empty)} has not one whole row of tokens; add text or give a lower SEQLEN."
        )
    lengths = {name: source.seqlen for name, source in sources.items()}
    if len(set(lengths.values())) > 1:
        words = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"the domains' rows have different lengths ({words}); export them alike.")
