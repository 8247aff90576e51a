"""Text on the store and beside it: what a source is, and how its documents are read.

A text data set is a directory `data/<name>` of `{train,validation,test}.jsonl`, one
`{"text": …}` a line (`.jsonl.gz` is read too), and `dataset.json`, which says how the set is used:
which split gives calibration windows and perplexity, and how its documents are joined.
"""

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.errors import InputError

Kind = Literal["tokens", "text", "documents", "dataset"]
Rule = Literal["documents", "stream"]

DESCRIPTION = "dataset.json"
SPLITS = ("train", "validation", "test")


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

    split: str
    rule: Rule
    join: str = "\n\n"
    documents: int | None = None
    windows: int | None = None


@dataclass(frozen=True)
class Description:
    """What `dataset.json` holds.

    Attributes:
        scores: how layers and channels are scored on it (None: as calibration is read).
    """

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
            values: dict[str, Any] = json.loads(path.read_text())
            for use in ("calibration", "perplexity", "scores"):
                if values.get(use):
                    values[use] = Reading(**values[use])
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path} does not describe a text data set ({error}); fetch it again."
            ) from None


class Documents(Sequence[str]):
    """The documents of a `.jsonl` file, read one at a time: a large file is never held whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[bytes] | None = None
        self._starts = np.zeros(0, dtype=np.int64)
        if path.suffix == ".gz":  # no random access: the lines are held
            with gzip.open(path) as file:
                self._lines = [line for line in file if line.strip()]
        else:
            starts, position = [], 0
            with path.open("rb") as file:
                for line in file:
                    if line.strip():
                        starts.append(position)
                    position += len(line)
            self._starts = np.asarray(starts, dtype=np.int64)
        if len(self) == 0:
            raise InputError(f'{path} holds no documents; each line should be {{"text": …}}.')

    def __len__(self) -> int:
        return len(self._starts) if self._lines is None else len(self._lines)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return text_of_line(self._line(index), self.path, index)

    def _line(self, index: int) -> bytes:
        if self._lines is not None:
            return self._lines[index]
        with self.path.open("rb") as file:
            file.seek(int(self._starts[index]))
            return file.readline()


def text_of_line(line: bytes, path: Path, index: int, column: str = "text") -> str:
    """The text of a line of `.jsonl`; `path` and `index` are for the error.

    Raises:
        InputError: the line is no object with a string of that name.
    """
    try:
        text = json.loads(line)[column]
    except (ValueError, TypeError, KeyError):
        text = None
    if not isinstance(text, str):
        raise InputError(
            f'{path}: document {index + 1} is not {{"{column}": …}}; correct or remove it.'
        )
    return text


def kind_of(source: Path) -> Kind:
    """What a text or calibration source is, by its name and nature.

    Raises:
        InputError: there is nothing at `source`, or nothing that can be read.
    """
    if source.is_dir():
        return "dataset"
    if not source.exists():
        raise InputError(f"{source} does not exist; give a text, a data set or token ids.")
    if source.suffix == ".safetensors":
        return "tokens"
    if source.suffix == ".txt":
        return "text"
    if source.name.endswith((".jsonl", ".jsonl.gz")):
        return "documents"
    raise InputError(
        f"{source} cannot be read as text; give .txt, .jsonl, .jsonl.gz, .safetensors holding "
        "input_ids, or a data set's directory."
    )


def split_file(directory: Path, split: str) -> Path:
    """The file of one split.

    Raises:
        InputError: the data set has no such split.
    """
    for suffix in (".jsonl", ".jsonl.gz"):
        path = directory / f"{split}{suffix}"
        if path.is_file():
            return path
    present = [
        name for name in SPLITS if any(directory.glob(f"{name}.jsonl*"))
    ]  # a tokenised corpus has none
    raise InputError(
        f"{directory} has no split {split} (it has: {', '.join(present) or 'no text'}); "
        "choose another split or another data set."
    )


def joined(path: Path, reading: Reading) -> str:
    """The documents of a `.jsonl` as the one stream that `reading` describes."""
    return reading.join.join(islice(Documents(path), reading.documents))


def read_text(path: Path) -> str:
    """A UTF-8 text file.

    Raises:
        InputError: it is empty or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; convert it first.") from None
    if not text:
        raise InputError(f"{path} is empty; give a text that holds something.")
    return text


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
