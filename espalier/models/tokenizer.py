"""Which token ids a tokenizer's files can give, read without loading the tokenizer."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from espalier.errors import InputError

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")


def check_tokenizer(directory: Path, rows: int) -> None:
    """Compare the largest token id with the `rows` of the embedding.

    Raises:
        InputError: an id has no row, or a tokenizer file cannot be read.
    """
    largest = largest_token_id(directory)
    if largest is not None and largest >= rows:
        raise InputError(
            f"the tokenizer of {directory} gives token ids up to {largest} and the embedding has "
            f"{rows} rows; use the model's own tokenizer."
        )


def largest_token_id(directory: Path) -> int | None:
    """The largest id that the tokenizer's files name; None where there is no tokenizer."""
    try:
        return max(_ids(directory), default=None)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InputError(f"the tokenizer files of {directory} cannot be read.") from None


def tokenizer_hash(directory: Path) -> str | None:
    """sha256 over the tokenizer's files; None where there are none."""
    present = [directory / name for name in FILES if (directory / name).is_file()]
    if not present:
        return None
    digest = hashlib.sha256()
    for path in present:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _ids(directory: Path) -> Iterator[int]:
    if (directory / "tokenizer.json").is_file():
        content = _json(directory / "tokenizer.json")
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, dict):
            yield from vocabulary.values()
        else:
            yield len(vocabulary) - 1
        yield from (token["id"] for token in content.get("added_tokens") or [])
    elif (directory / "vocab.json").is_file():
        yield from _json(directory / "vocab.json").values()
    elif (directory / "tokenizer.model").is_file():
        yield _sentencepiece_count((directory / "tokenizer.model").read_bytes()) - 1
    if (directory / "added_tokens.json").is_file():
        yield from _json(directory / "added_tokens.json").values()


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _sentencepiece_count(model: bytes) -> int:
    """Pieces of a SentencePiece model: occurrences of field 1 of its protobuf message."""
    count = position = 0
    while position < len(model):
        key, position = _varint(model, position)
        field, kind = key >> 3, key & 7
        if kind != 2:
            raise ValueError("not a SentencePiece model")
        length, position = _varint(model, position)
        position += length
        count += field == 1
    return count


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
