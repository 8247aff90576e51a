"""Text on the store and beside it: what a source is, and how its documents are read.

A text data set is a directory `data/<name>` of `{train,validation,test}.jsonl`, one
`{"text": …}` a line, and `dataset.json`, which says how the set is used: which split gives
calibration windows and perplexity, and how its documents are joined. Any other folder whose files
can be read (formats.py) is used by the defaults.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, chain, islice
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from espalier.contract.files import write_text
from espalier.contract.json_text import NotJson, from_json, to_json
from espalier.data.formats import (
    FORMATS,
    IDS,
    LINES,
    SPLITS,
    SPOKEN,
    TEXT,
    files_of,
    format_of,
    split_of,
)
from espalier.data.text_files import BadDocument, documents_of, text_of_line, without_mark
from espalier.errors import InputError

Kind = Literal["tokens", "text", "documents", "dataset"]
Rule = Literal["documents", "stream"]

Count = Annotated[int, Field(ge=1, lt=2**62)]

DESCRIPTION = "dataset.json"
_KNOWN_ALONE = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Reading:
    """How one split is turned into windows of tokens.

    Attributes:
        split: the split that is read.
        rule: `documents` draws a long enough document for every window; `stream` joins all
            documents and cuts or draws windows from the one stream.
        join: what stands between two documents of a stream.
        documents: only the leading ones (None: all).
        windows: only the leading windows of a stream (None: all).
    """

    __pydantic_config__ = _KNOWN_ALONE

    split: str
    rule: Rule
    join: str = "\n\n"
    documents: Count | None = None
    windows: Count | None = None


@dataclass(frozen=True)
class Description:
    """What `dataset.json` holds.

    Attributes:
        scores: how layers and channels are scored on it (None: as calibration is read).
    """

    __pydantic_config__ = _KNOWN_ALONE

    name: str
    source: str = ""
    revision: str = ""
    calibration: Reading = field(default=Reading("train", "documents"))
    perplexity: Reading = field(default=Reading("test", "stream"))
    scores: Reading | None = None
    remark: str = ""

    def write(self, directory: Path) -> None:
        """Write `dataset.json` into `directory`, whole or not at all."""
        write_text(directory / DESCRIPTION, to_json(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path) -> "Description":
        """Read `dataset.json`; a directory without one is used by the defaults.

        Raises:
            InputError: the file is not what it should be.
        """
        path = directory / DESCRIPTION
        if not path.is_file():
            return cls(directory.name)
        try:
            return _DESCRIPTION.validate_python(from_json(path.read_bytes()))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from None
        except (NotJson, ValidationError) as error:
            raise InputError(
                f"{path} does not describe a text data set ({_why(error)}); fetch it again."
            ) from None


_DESCRIPTION = TypeAdapter(Description)


def _why(error: NotJson | ValidationError) -> str:
    if isinstance(error, NotJson):
        return f"it {error}"
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


class Documents(Sequence[str]):
    """The documents of files, by position: lines of JSON are read one at a time, others are held.

    Raises:
        InputError: a file is not whole, or holds no documents.
    """

    def __init__(self, *files: Path) -> None:
        self._parts = [_part_of(file) for file in files]
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = index % len(self)
        number = bisect_right(self._ends, place)
        return self._parts[number][place - (self._ends[number - 1] if number else 0)]


class _Lines(Sequence[str]):
    """The documents of an uncompressed `.jsonl`: where its lines begin is all that is held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        starts, position = [], 0
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if (without_mark(line) if number == 0 else line).strip():
                    starts.append(position)
                position += len(line)
        self._starts = np.asarray(starts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        start = int(self._starts[index])
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.readline()
            found = text_of_line(line if start else without_mark(line), "")
            if isinstance(found, str):
                return found
            file.seek(0)
            number = file.read(start).count(b"\n") + 1
        raise BadDocument(f"{self.path}, line {number}", found.what)


def _part_of(file: Path) -> Sequence[str]:
    if format_of(file.name) != LINES:
        return list(documents_of(file))
    lines = _Lines(file)
    return lines if len(lines) else list(documents_of(file))  # which says what is wrong


def kind_of(source: Path) -> Kind:
    """What a text or calibration source is, by its name and nature.

    Raises:
        InputError: there is nothing at `source`, or nothing that can be read.
    """
    if source.is_dir():
        return "dataset"
    if not source.exists():
        raise InputError(f"{source} does not exist; give a text, a data set or token ids.")
    if source.suffix.lower() == IDS:
        return "tokens"
    form = format_of(source.name)
    if form is None:
        raise InputError(
            f"{source} cannot be read as text; give {SPOKEN}, {IDS} holding input_ids, or a "
            "data set's directory."
        )
    return "text" if form.startswith(TEXT) else "documents"


def split_files(directory: Path, split: str) -> list[Path]:
    """The files of one split, in order: `<split>.jsonl` and its like, or what names it so.

    Where no file of the directory names a split, all are `train`.

    Raises:
        InputError: the data set has no such split, or has it twice.
    """
    own = [path for form in FORMATS if (path := directory / f"{split}{form}").is_file()]
    if len(own) > 1:
        both = " and ".join(path.name for path in own)
        raise InputError(f"{directory} has {both}, one split twice; take one of them out.")
    if own:
        return own
    found = files_of(directory)
    wanted = split_of(PurePath(split)) or split
    if wanted == "train" and None in found:
        return found[None]
    if wanted in found:
        return found[wanted]
    present = [name for name in SPLITS if name in found]
    raise InputError(
        f"{directory} has no split {split} (it has: {', '.join(present) or 'no named one'}); "
        "choose another split or another data set."
    )


def joined(files: Sequence[Path], reading: Reading) -> str:
    """The documents of `files` as the one stream that `reading` describes."""
    documents = chain.from_iterable(map(documents_of, files))
    return reading.join.join(islice(documents, reading.documents))


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
