"""The one reader of texts: a file's documents in order, one at a time, whatever its size.

A document that cannot be used is told with its file and line or row; what else is wrong with a file
ends the reading. A byte order mark at the beginning is no part of a text.
"""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from espalier.data.formats import COMPRESSED, JSON, SPOKEN, TABLE, TEXT, format_of
from espalier.errors import InputError

ROWS = 1024
MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
"""How compressed files begin."""


class BadDocument(InputError):
    """A document that cannot be used: `where` it stands and `what` is wrong with it."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where} {what}; correct or remove it.")
        self.where, self.what = where, what


def documents_of(file: Path, column: str = "text") -> Iterator[str]:
    """The texts of a file, in order: of a .txt one, of others those in `column`.

    Raises:
        InputError: the file is not whole or cannot be read, or a document cannot be used.
    """
    for entry in entries_of(file, column):
        if isinstance(entry, BadDocument):
            raise entry
        yield entry


def entries_of(file: Path, column: str = "text") -> Iterator[str | BadDocument]:
    """As `documents_of`, with what is wrong in the place of a document that cannot be used.

    Raises:
        InputError: the file is not whole, or is of no form that can be read.
    """
    form = format_of(file.name)
    if form is None:
        raise InputError(f"{file} cannot be read as text; give {SPOKEN}.")
    plain = form.removesuffix(packed := _packing(form))
    if plain == TABLE:
        yield from _cells(file, column)
        return
    with _opened(file, packed) as stream:
        if plain == TEXT:
            yield _whole(file, stream)
        else:
            array = plain == JSON and _is_array(stream)
            for where, row in _array(file, stream) if array else _json_lines(file, stream):
                yield _text_of_row(row, where, column)


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a file of JSON or Parquet, in order.

    Raises:
        InputError: the file is not whole or holds no rows, or a row is no object.
    """
    form = format_of(file.name) or ""
    packed = _packing(form)
    if form.removesuffix(packed) == TABLE:
        yield from _table_rows(file)
        return
    with _opened(file, packed) as stream:
        array = form.removesuffix(packed) == JSON and _is_array(stream)
        for where, row in _array(file, stream) if array else _json_lines(file, stream):
            if isinstance(row, BadDocument):
                raise row
            if not isinstance(row, dict):
                raise BadDocument(where, "is no row of named values")
            yield row


def read_text(file: Path) -> str:
    """The one document of a .txt, plain or compressed.

    Raises:
        InputError: it is empty, not UTF-8 or not whole.
    """
    return next(documents_of(file))


def text_of_line(line: bytes, where: str, column: str = "text") -> str | BadDocument:
    """The text of a line of JSON, or what is wrong with it; `where` is for the error."""
    return _text_of_row(_parsed(line, where), where, column)


def without_mark(line: bytes) -> bytes:
    """A file's first bytes without the byte order mark."""
    return line.removeprefix(codecs.BOM_UTF8)


def _parsed(line: bytes, where: str) -> Any:
    """The JSON of a line, or what is wrong with it."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return BadDocument(where, "is not UTF-8")
    except (ValueError, RecursionError):
        return BadDocument(where, "is not JSON")


def _text_of_row(row: Any, where: str, column: str) -> str | BadDocument:
    if isinstance(row, BadDocument):
        return row
    if not isinstance(row, dict):
        return BadDocument(where, f'is not {{"{column}": …}}')
    if column not in row:
        there = ", ".join(list(row)[:8]) or "nothing"
        return BadDocument(where, f"has no {column} (it has {there})")
    return _checked(row[column], where, column)


def _checked(text: Any, where: str, column: str) -> str | BadDocument:
    if not isinstance(text, str):
        return BadDocument(where, f"has {column} that is not text")
    try:
        text.encode()
    except UnicodeEncodeError:
        return BadDocument(where, "holds half of a surrogate pair, which is no character")
    return text


def _packing(form: str) -> str:
    return next((packed for packed in COMPRESSED if form.endswith(packed)), "")


def _is_array(stream: io.BufferedReader) -> bool:
    """Whether JSON is one array of rows, and not a row a line."""
    return without_mark(stream.peek(64)).lstrip()[:1] == b"["


@contextmanager
def _opened(file: Path, packed: str) -> Iterator[io.BufferedReader]:
    """The bytes of a file, uncompressed.

    Raises:
        InputError: they are not whole, or not what the name says.
    """
    with file.open("rb") as raw:
        begin = raw.read(4)
    found = next((ending for magic, ending in MAGIC.items() if begin.startswith(magic)), "")
    if found and not packed:
        raise InputError(f"{file} is compressed; name it {file.name}{found}.")
    if packed and not begin:
        raise _not_whole(file, "it is empty")
    try:
        with _decompressed(file, packed) as stream:
            yield io.BufferedReader(stream)  # type: ignore[arg-type]
    except (EOFError, OSError, zlib.error) as error:
        if getattr(error, "errno", None):  # the disk's, not the decompressor's
            raise
        raise _not_whole(file, error) from None


def _decompressed(file: Path, packed: str) -> IO[bytes] | gzip.GzipFile:
    if packed == ".gz":
        return gzip.open(file)
    if packed == ".zst":
        from pyarrow import input_stream  # type: ignore[import-untyped]

        stream: IO[bytes] = input_stream(str(file), compression="zstd")
        return stream
    return file.open("rb", buffering=0)


def _whole(file: Path, stream: io.BufferedReader) -> str | BadDocument:
    content = without_mark(stream.read())
    if not content:
        return BadDocument(str(file), "is empty")
    try:
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return BadDocument(f"{file}, line {line}", "is not UTF-8 text")


def _json_lines(file: Path, stream: io.BufferedReader) -> Iterator[tuple[str, Any]]:
    """Where each line stands, and its JSON or what is wrong with it."""
    found = False
    for number, line in enumerate(stream, 1):
        content = without_mark(line) if number == 1 else line
        if content.strip():
            found, where = True, f"{file}, line {number}"
            yield where, _parsed(content, where)
    if not found:
        yield str(file), BadDocument(str(file), "holds no documents")


def _array(file: Path, stream: io.BufferedReader) -> Iterator[tuple[str, Any]]:
    """Where each element of the one array stands, and itself."""
    try:
        rows = json.loads(without_mark(stream.read()).decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8; convert it first.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}); correct it or fetch it again.") from None
    for number, row in enumerate(rows, 1):
        yield f"{file}, row {number}", row
    if not rows:
        yield str(file), BadDocument(str(file), "holds no documents")


@contextmanager
def _table(file: Path) -> Iterator[Any]:
    """A Parquet file.

    Raises:
        InputError: it is not whole.
    """
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    try:
        yield parquet.ParquetFile(file)
    except (ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the disk's
            raise
        raise _not_whole(file, str(error).splitlines()[0]) from None


def _table_rows(file: Path) -> Iterator[dict[str, Any]]:
    with _table(file) as table:
        for batch in table.iter_batches(ROWS):
            yield from batch.to_pylist()


def _cells(file: Path, column: str) -> Iterator[str | BadDocument]:
    from pyarrow import types

    with _table(file) as table:
        if column not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names[:8])
            raise InputError(f"{file} has no column {column} (it has {names}).")
        kind = table.schema_arrow.field(column).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
            raise InputError(f"{file} has {kind} in column {column} where text is needed.")
        number = 0
        for batch in table.iter_batches(ROWS, columns=[column]):
            for value in batch.column(0):
                number += 1
                yield _of_cell(value, f"{file}, row {number}", column)
        if not number:
            yield BadDocument(str(file), "holds no documents")


def _of_cell(value: Any, where: str, column: str) -> str | BadDocument:
    try:
        return _checked(value.as_py(), where, column)
    except UnicodeDecodeError:
        return BadDocument(where, "is not UTF-8")


def _not_whole(file: Path, reason: object) -> InputError:
    return InputError(f"{file} is not whole ({reason}); copy or fetch it again.")
