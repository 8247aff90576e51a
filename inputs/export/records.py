"""ArrayRecord: a record a row, each a tf.Example (grain_file_type=arrayrecord)."""

from collections.abc import Iterator
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordWriter

from espalier.contract.files import replacing
from espalier.data.tokens.example import serialized
from espalier.data.tokens.reader import Ids
from espalier.errors import EnvironmentFailure

OPTIONS = "group_size:1"
"""A record a chunk: grain reads them in any order."""


def write(target: Path, rows: Iterator[Ids]) -> None:
    """Write rows as the records of one file, compressed by zstd as the package's default is.

    Raises:
        EnvironmentFailure: the file cannot be written.
    """
    with replacing(target) as temporary:
        try:
            writer = ArrayRecordWriter(str(temporary), OPTIONS)
            for row in rows:
                writer.write(serialized(row))
            writer.close()
        except RuntimeError as error:  # all that the package raises
            reason = str(error).partition(";")[0]
            raise EnvironmentFailure(f"{target.name} cannot be written: {reason}.") from None
