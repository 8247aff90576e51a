"""Which token ids a tokenizer's files can give, read without loading the tokenizer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from espalier.errors import InputError
from espalier.models.tokenizer_identity import files_hash, identity_hash


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
    """sha256 of what decides a text's ids, or of the files where `tokenizer.json` is none of them.

    None where there is no tokenizer.
    """
    return identity_hash(directory) or files_hash(directory)


def require_same_tokenizer(data: Path, recorded: str, model: Path) -> None:
    """Refuse a model whose tokenizer is not the one, by its hash, that made the ids of `data`.

    Data of before hold the hash of the files as they were.

    Raises:
        InputError: it has another, or none.
    """
    found = tokenizer_hash(model)
    if recorded in (found, files_hash(model)):
        return
    has = (
        f"another ({found[:12]}): vocabulary, merges, added tokens, normaliser, pre-tokenizer, BOS "
        "or EOS differ"
        if found
        else "no tokenizer"
    )
    raise InputError(
        f"{data} was made with tokenizer {recorded[:12]} and {model} has {has}; make the data with "
        "TOKENIZER=<that model>."
    )


def load_tokenizer(model: Path) -> Any:
    """The model's own tokenizer, from its directory alone.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.set_verbosity_error()  # long texts are cut later: its length warning misleads
    # What transformers 5 writes names a class that 4 does not know; the file is the same.
    known_by_4 = _tokenizer_class(model) != "TokenizersBackend"
    loader = AutoTokenizer if known_by_4 else PreTrainedTokenizerFast
    try:
        return loader.from_pretrained(model, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - each tokenizer class fails in its own way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{model} has no tokenizer that can be read ({reason}); put its tokenizer files there "
            "or give token ids as .safetensors."
        ) from None


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


def _tokenizer_class(model: Path) -> str | None:
    try:
        found = json.loads((model / "tokenizer_config.json").read_text()).get("tokenizer_class")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None
