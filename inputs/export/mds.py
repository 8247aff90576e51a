"""MDS, which Composer's loaders read by mosaicml-streaming's StreamingDataset: a folder a split.

Version 2 of the form (docs.mosaicml.com/projects/streaming, "Dataset Format"; all little-endian):

    shard   uint32 samples | uint32 [samples + 1] where each begins in the file, and the end
            | JSON of the columns | the samples
    sample  uint32 [columns] bytes of each | the columns' values, in the order of their names
    array   a byte, 4 times the dimensions + log2 of the bytes of a size | sizes | values

The bytes are those that MDSWriter of mosaicml-streaming 0.13.0 writes. It is not used itself: to
import it takes a torchvision of the very torch, a transformers below 5 and four clouds' clients.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from espalier.contract.files import replacing, write_text
from espalier.contract.json_text import to_json
from espalier.data.tokens.mds import INDEX
from espalier.data.tokens.reader import Ids
from espalier.errors import InputError

LIMIT = 1 << 26
"""Bytes of a shard, MDSWriter's default."""
SIZE = np.dtype("<u4")
"""Of everything that counts samples or bytes."""


def write(folder: Path, rows: Iterator[Ids], dtype: str, domain: str = "") -> None:
    """Write rows as samples of `tokens` (ndarray of `dtype`, uint16 or uint32) and `set` (str).

    LLM-Shearing's loaders ask of each sample which set it is of: the domain, or the folder's name
    where there are no domains. Shards that an interrupted run has finished are kept; the index
    comes last.

    Raises:
        InputError: a row is too large for the offsets of a shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": [],
        "size_limit": LIMIT,
        "column_names": ["set", "tokens"],
        "column_encodings": ["str", f"ndarray:{dtype}"],
        "column_sizes": [None, None],  # they vary
    }
    header = to_json(config, sort_keys=True).encode()
    name = (domain or folder.name).encode()
    shards = []
    for number, samples in enumerate(_shards(rows, header, name)):
        path = folder / f"shard.{number:05d}.mds"
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_bytes(_shard(samples, header, name))
        data = {"basename": path.name, "bytes": path.stat().st_size, "hashes": {}}
        shards.append({**config, "samples": len(samples), "raw_data": data, "zip_data": None})
    write_text(folder / INDEX, to_json({"version": 2, "shards": shards}, sort_keys=True))


def _shards(rows: Iterator[Ids], header: bytes, name: bytes) -> Iterator[list[Ids]]:
    """The rows of each shard: as many as LIMIT has room for, and one at least."""
    empty = 2 * SIZE.itemsize + len(header)
    size, held = empty, list[Ids]()
    for row in rows:
        more = SIZE.itemsize + sum(map(len, _prefix(row, name))) + row.nbytes
        if empty + more > np.iinfo(SIZE).max:
            raise InputError(f"a document of {len(row)} tokens is too large for MDS; give SEQLEN=.")
        if held and size + more > LIMIT:
            yield held
            size, held = empty, []
        size += more
        held.append(row)
    if held:
        yield held


def _shard(rows: list[Ids], header: bytes, name: bytes) -> bytes:
    samples = [b"".join((*_prefix(row, name), row.tobytes())) for row in rows]
    offsets = np.cumsum([0, *map(len, samples)])  # int64 [samples + 1]
    offsets += (1 + len(offsets)) * SIZE.itemsize + len(header)
    counted = np.asarray([len(samples), *offsets], SIZE)
    return b"".join((counted.tobytes(), header, *samples))


def _prefix(row: Ids, name: bytes) -> tuple[bytes, bytes, bytes]:
    """What a sample has before its ids: the sizes of both columns, the set, the array's shape."""
    power = next(power for power in range(4) if len(row) < 1 << (8 << power))
    dimensions = 1
    shape = bytes([dimensions << 2 | power]) + len(row).to_bytes(1 << power, "little")
    sizes = np.asarray([len(name), len(shape) + row.nbytes], SIZE)
    return sizes.tobytes(), name, shape
