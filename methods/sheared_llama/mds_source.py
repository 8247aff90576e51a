"""A domain's rows in an MDS folder, as `make export FORMAT=mds` or LLM-Shearing's scripts write it.

Read where it lies: StreamingDataset copies shards into a cache and keeps its place in shared memory
that outlives a killed run; LocalDataset does neither, and the order of rows is the sampler's.
"""

from pathlib import Path
from typing import Any

import numpy as np
from streaming.base.local import LocalDataset

from espalier.contract.json_text import read_json
from espalier.errors import InputError
from methods.sheared_llama.domains import Row

INDEX = "index.json"
COLUMN = "tokens"
RAW = np.dtype("<u2")
"""Of ids in a column of plain bytes, which LLM-Shearing's scripts write."""


class MdsSource:
    """Samples with a column `tokens`, each of the same length.

    Args:
        folder: of one split, with its `index.json`.

    Raises:
        InputError: it holds no samples, shards are missing, cut short or compressed, or a column
            would have to be unpickled.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        _check_index(folder)
        self._samples = LocalDataset(str(folder))
        for shard in self._samples.shards:
            _check_shard(folder, shard)
        self.seqlen = len(self._tokens(0))

    def __len__(self) -> int:
        return int(self._samples.num_samples)

    def __getitem__(self, index: int) -> Row:
        """Tokens of a sample, int64 [T].

        Raises:
            IndexError: there is no such sample.
            InputError: it has not as many tokens as the first.
        """
        row = self._tokens(index)
        if len(row) != self.seqlen:
            raise InputError(
                f"{self._folder} has samples of {self.seqlen} and of {len(row)} tokens; "
                "export it with SEQLEN=, so that all have as many."
            )
        return row

    def _tokens(self, index: int) -> Row:
        value = self._samples.get_item(index)[COLUMN]
        if isinstance(value, bytes):
            value = np.frombuffer(value, RAW)
        row: Row = np.asarray(value).reshape(-1).astype(np.int64)
        return row


def _check_index(folder: Path) -> None:
    """Refuse what LocalDataset would fail on or read past."""
    path = folder / INDEX
    again = "export the data again with make export FORMAT=mds"
    if not path.is_file():
        raise InputError(f"{folder} is no MDS folder, it has no {INDEX}; {again}.")
    index = read_json(path, again)
    shards = index.get("shards") if isinstance(index, dict) else None
    if not isinstance(shards, list) or not all(map(_is_plain, shards)):
        raise InputError(f"{path} lists no uncompressed MDS shards of version 2; {again}.")
    if not sum(shard["samples"] for shard in shards):
        raise InputError(f"{folder} holds no samples; {again}.")


def _is_plain(shard: Any) -> bool:
    if not isinstance(shard, dict) or not isinstance(shard.get("raw_data"), dict):
        return False
    name = shard["raw_data"].get("basename")
    inside = isinstance(name, str) and Path(name).name == name
    counted = isinstance(shard.get("samples"), int) and shard["samples"] >= 0
    form = (shard.get("version"), shard.get("format"), shard.get("compression"))
    return inside and counted and form == (2, "mds", None)


def _check_shard(folder: Path, shard: Any) -> None:
    path = folder / shard.raw_data.basename
    if not path.is_file() or path.stat().st_size != shard.raw_data.bytes:
        raise InputError(f"{path} is missing or cut short; export the data again.")
    if COLUMN not in shard.column_names:
        raise InputError(f"{path} has no column {COLUMN}; export the data with make export.")
    try:
        shard.validate(allow_unsafe_types=False)
    except ValueError:
        raise InputError(
            f"{path} has a column that is pickled, and nothing pickled is read here; export the "
            "data with make export."
        ) from None
