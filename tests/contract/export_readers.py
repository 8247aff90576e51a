"""Reads each split of an export, by the format's own reader or by its published form."""

import json
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np


def read_parquet(folder: Path, split: str) -> list[list[int]]:
    from pyarrow import parquet

    files = sorted(folder.glob(f"{split}-*.parquet"))
    return [row for path in files for row in parquet.read_table(path)["input_ids"].to_pylist()]


def read_arrow(folder: Path, split: str) -> list[list[int]]:
    import pyarrow as pa

    files = sorted(folder.glob(f"{split}-*.arrow"))
    tables = [pa.ipc.open_stream(pa.memory_map(str(path))).read_all() for path in files]
    return [row for table in tables for row in table["input_ids"].to_pylist()]


def read_arrayrecord(folder: Path, split: str) -> list[list[int]]:
    """By the source that grain gives MaxText; each record by the wire format of protobuf."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    files = [str(path) for path in sorted(folder.glob(f"{split}-*.arrayrecord"))]
    source = ArrayRecordDataSource(files) if files else []
    backwards = [feature_of(source[at]) for at in reversed(range(len(source)))]
    return backwards[::-1]


def feature_of(example: bytes) -> list[int]:
    """Example.features(1).feature(1) = {key(1): input_ids, value(2).int64_list(3).value(1)}."""
    entry = field(field(example, 1)[0], 1)[0]
    assert field(entry, 1) == [b"input_ids"]
    (packed,) = field(field(field(entry, 2)[0], 3)[0], 1)
    ids, at = [], 0
    while at < len(packed):
        value, at = varint(packed, at)
        ids.append(value)
    return ids


def field(message: bytes, number: int) -> list[bytes]:
    found, at = [], 0
    while at < len(message):
        key, at = varint(message, at)
        assert key & 7 == 2  # all of them are of the kind with a length
        length, at = varint(message, at)
        if key >> 3 == number:
            found.append(message[at : at + length])
        at += length
    return found


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def read_mds(folder: Path, split: str, name: str = "") -> list[list[int]]:
    """By the published form, as StreamingDataset does: the index, then any sample by its offset.

    Each says its set: `name`, or the split's where there are no domains.
    """
    if not (folder / split).exists():
        return []
    index = json.loads((folder / split / "index.json").read_text())
    assert index["version"] == 2
    rows = []
    for shard in index["shards"]:
        assert shard["column_names"] == ["set", "tokens"]
        kind, _, dtype = shard["column_encodings"][1].partition(":")
        assert (kind, shard["column_encodings"][0]) == ("ndarray", "str")
        content = (folder / split / shard["raw_data"]["basename"]).read_bytes()
        assert len(content) == shard["raw_data"]["bytes"]
        (samples,) = struct.unpack_from("<I", content)
        assert samples == shard["samples"]
        offsets = struct.unpack_from(f"<{samples + 1}I", content, 4)
        assert offsets[-1] == len(content)
        for begin, end in pairwise(offsets):
            length, array = struct.unpack_from("<2I", content, begin)
            at = begin + 8 + length
            assert content[begin + 8 : at].decode() == (name or split)
            assert at + array == end
            assert content[at] >> 2 == 1  # dimensions
            width = 1 << (content[at] & 3)
            length = int.from_bytes(content[at + 1 : at + 1 + width], "little")
            ids = np.frombuffer(content[at + 1 + width : end], dtype)
            assert len(ids) == length
            rows.append(ids.tolist())
    return rows


READERS: dict[str, Callable[..., list[list[int]]]] = {
    "parquet": read_parquet,
    "arrow": read_arrow,
    "arrayrecord": read_arrayrecord,
    "mds": read_mds,
}
