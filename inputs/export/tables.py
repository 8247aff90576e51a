"""Parquet and Arrow: a table with the one column `input_ids`, list of int32."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from espalier.contract.files import replacing
from espalier.data.tokens.reader import Ids

ROWS = 1024
"""Rows held at once, and a row group of Parquet."""
TOKENIZER = b"espalier.tokenizer"
"""Key of the schema's metadata that holds the tokenizer's hash."""


def write(target: Path, rows: Iterator[Ids], tokenizer: str) -> None:
    """Write rows to a .parquet, or to an .arrow in the streaming form that `datasets` maps."""
    column = ("input_ids", pa.list_(pa.int32()))
    schema = pa.schema([column], metadata={TOKENIZER: tokenizer.encode()})
    with replacing(target) as temporary:
        if target.suffix == ".parquet":
            writer = parquet.ParquetWriter(temporary, schema, compression="zstd")
        else:
            writer = pa.ipc.new_stream(str(temporary), schema)
        with writer:
            while batch := list(islice(rows, ROWS)):
                writer.write_batch(_batch(batch, schema))


def _batch(rows: list[Ids], schema: Any) -> Any:
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int32)  # int32 [rows + 1]
    values = np.concatenate(rows).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(values))
    return pa.record_batch([lists], schema=schema)
