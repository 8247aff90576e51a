"""Write each shard of token data as one file of rows: column `input_ids`, a document a row."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from espalier.parameters import Parameters
from espalier.stage import Outcome, StageContext
from espalier.token_data.reader import Ids, TokenData
from training.export.spec import ExportParameters

ROWS = 1024
"""Documents held at once, and a row group of Parquet."""
TOKENIZER = b"espalier.tokenizer"
"""Key of the schema's metadata that holds the tokenizer's hash."""


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Export the input `data`; shards that an interrupted run has finished are kept."""
    assert isinstance(parameters, ExportParameters)  # noqa: S101
    data = TokenData(context.inputs["data"])
    data.verify()
    index = data.index
    schema = pa.schema(
        [("input_ids", pa.list_(pa.int32()))], metadata={TOKENIZER: index.tokenizer.encode()}
    )
    total = sum(len(split.shards) for split in index.splits.values())
    with context.progress.steps("export", total) as steps:
        for split in data.splits:
            for name, documents in data.stream(split).shards():
                target = context.output / f"{name}.{parameters.format}"
                if not target.exists():
                    write(target, documents, schema)
                steps.advance(file=target.name)
    return Outcome(
        data={
            "tokenizer": index.tokenizer,
            "tokens": {split: data.counts(split)[0] for split in data.splits},
            "documents": {split: data.counts(split)[1] for split in data.splits},
        }
    )


def write(target: Path, documents: Iterator[Ids], schema: Any) -> None:
    """Write rows to a .parquet, or to an .arrow in the streaming form that `datasets` maps."""
    temporary = target.with_name(f".{target.name}.tmp")
    if target.suffix == ".parquet":
        writer = parquet.ParquetWriter(temporary, schema, compression="zstd")
    else:
        writer = pa.ipc.new_stream(str(temporary), schema)
    with writer:
        while rows := list(islice(documents, ROWS)):
            writer.write_batch(_batch(rows, schema))
    temporary.replace(target)


def _batch(rows: list[Ids], schema: Any) -> Any:
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int32)  # int32 [rows + 1]
    values = np.concatenate(rows).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(values))
    return pa.record_batch([lists], schema=schema)
