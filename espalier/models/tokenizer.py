"""A model's tokenizer: which ids its files can give, read without loading it, and loading it."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from espalier.errors import InputError

TOKENIZER = "tokenizer.json"
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
FILES = (TOKENIZER, "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")
PROBE = (
    "The Quick brown fox's 12 + 345,678.90 lazy dogs;\n\n  two  spaces,\ttab\r\n</s> <s> <pad>: "
    "Größe, naïve œuvre, İstanbul, e\u0301 ﬁ ½. Ελληνικά, кириллица, עברית, العربية, हिन्दी, "
    "ไทย, 中文字符\uff0c日本語のテキスト, 한국어, \u1112\u1161\u11ab. "
    "👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈 ∑∫√ → «x» "
    "\u00a0\u2009\u200b\ufeff\ufffd\x00 def f(x):\n    return x**2  # https://a.b/c?d=e\n"
)


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


def load_tokenizer(model: Path) -> Any:
    """The model's own tokenizer, from its directory alone: a tokenizer of transformers.

    Where there is a tokenizer.json, its ids are those of `tokenizers.Tokenizer.from_file`, whatever
    class tokenizer_config.json names: transformers builds some classes anew from the vocabulary
    and drops what else the file says, and each version does so for others.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()  # long texts are cut later: its length warning misleads
    try:
        if (model / TOKENIZER).is_file():
            return _of_file(model)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(model, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - each tokenizer class fails in its own way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{model} has no tokenizer that can be read ({reason}); put its tokenizer files there "
            "or give token ids as .safetensors."
        ) from None


def probe_hash(tokenizer: Any) -> str:
    """sha256 of the ids, int64, that a loaded tokenizer gives for a fixed text in many scripts.

    Equal in every image; where two manifests differ in it, the same text gave other tokens.
    """
    ids: list[int] = tokenizer(PROBE)["input_ids"]
    return hashlib.sha256(b"".join(number.to_bytes(8, "little") for number in ids)).hexdigest()


def _of_file(model: Path) -> Any:
    """tokenizer.json behind the calls of transformers."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(model / TOKENIZER))
    backend.no_truncation()
    backend.no_padding()
    names = _special_tokens(model, backend.id_to_token)
    known = {role: name for role, name in names.items() if backend.token_to_id(name) is not None}
    # Given the file, the class would still add tokens that the configuration names: a special
    # token that tokenizer.json leaves a piece like any other has to stay one.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), clean_up_tokenization_spaces=False, **known
    )
    tokenizer._tokenizer = backend
    return tokenizer


def _special_tokens(model: Path, token_of: Callable[[int], str | None]) -> dict[str, str]:
    """Role (`bos_token`, …) to token: the first file that speaks of it decides."""
    found: dict[str, str] = {}
    files = [_object(model / name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    config = _object(model / "config.json")
    for role in ROLES:
        said = [content[role] for content in files if role in content]
        if said:
            name = said[0].get("content") if isinstance(said[0], dict) else said[0]
        else:
            ids = config.get(f"{role}_id")
            first = ids[0] if isinstance(ids, list) and ids else ids
            name = token_of(first) if isinstance(first, int) and first >= 0 else None
        if isinstance(name, str) and name:
            found[role] = name
    return found


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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
