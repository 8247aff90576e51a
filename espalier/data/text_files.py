"""Documents read in order from the files that texts come in, one at a time, whatever their size."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from espalier.data.text import read_text, text_of_line
from espalier.errors import InputError

LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz")
READABLE = (".txt", ".parquet", *LINES)
ROWS = 1024


def documents_of(file: Path, column: str = "text") -> Iterator[str]:
    """The texts in a .txt (one document), a .parquet, or lines of JSON, plain, .gz or .zst.

    Raises:
        InputError: the file is not whole, or has no texts in that column.
    """
    if file.suffix == ".txt":
        yield read_text(file)
    elif file.suffix == ".parquet":
        yield from _rows(file, column)
    else:
        yield from _lines(file, column)


def _lines(file: Path, column: str) -> Iterator[str]:
    try:
        with _opened(file) as lines:
            index = 0
            for line in lines:
                if line.strip():
                    yield text_of_line(line, file, index, column)
                    index += 1
    except (EOFError, OSError, zlib.error) as error:
        if getattr(error, "errno", None):  # the disk's, not the decompressor's
            raise
        raise InputError(f"{file} is not whole ({error}); copy or fetch it again.") from None


def _opened(file: Path) -> IO[bytes] | gzip.GzipFile:
    if file.suffix == ".gz":
        return gzip.open(file)
    if file.suffix == ".zst":
        from pyarrow import input_stream  # type: ignore[import-untyped]

        return io.BufferedReader(input_stream(str(file), compression="zstd"))
    return file.open("rb")


def _rows(file: Path, column: str) -> Iterator[str]:
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    try:
        table = parquet.ParquetFile(file)
        if column not in table.schema_arrow.names:
            raise InputError(f"{file} has no column {column}; give another with COLUMN=.")
        index = 0
        for batch in table.iter_batches(ROWS, columns=[column]):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str):
                    raise InputError(f"{file}: document {index + 1} is not text; remove it.")
                yield text
                index += 1
    except ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} is not whole ({reason}); copy or fetch it again.") from None
