"""A model's tokenizer: which ids its files can give, read without loading it, and loading it."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.json_text import NotJson, from_json, to_json
from espalier.errors import InputError
from espalier.models.sentencepiece import Framing, SentencePiece, tokenizer_json
from espalier.models.tokenizer_identity import ROLES, files_hash, identity_hash, stated_tokens

TOKENIZER, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
PROBE = (
    "The Quick brown fox's 12 + 345,678.90 lazy dogs;\n\n  two  spaces,\ttab\r\n</s> <s> <pad>: "
    "Größe, naïve œuvre, İstanbul, e\u0301 ﬁ ½. Ελληνικά, кириллица, עברית, العربية, हिन्दी, "
    "ไทย, 中文字符\uff0c日本語のテキスト, 한국어, \u1112\u1161\u11ab. "
    "👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈 ∑∫√ → «x» "
    "\u00a0\u2009\u200b\ufeff\ufffd\x00 def f(x):\n    return x**2  # https://a.b/c?d=e\n"
)


def check_tokenizer(directory: Path, rows: int) -> None:
    """Compare the ids of the vocabulary with the `rows` of the embedding.

    A token that was added to the vocabulary may be beyond it, such as a <pad> that no text holds
    (`tokens_without_row`); ids are compared again where a text is tokenised.

    Raises:
        InputError: an id of the vocabulary has no row, or a tokenizer file cannot be read.
    """
    with _readable(directory):
        added = _added(directory)
        largest = max((n for n in _vocabulary(directory) if n not in added), default=None)
    if largest is not None and largest >= rows:
        raise InputError(
            f"the tokenizer of {directory} gives token ids up to {largest} and the embedding has "
            f"{rows} rows; use the model's own tokenizer."
        )


def tokens_without_row(directory: Path) -> list[str]:
    """The added tokens whose ids are beyond the rows that config.json says; of no model: none."""
    rows = _object(directory / "config.json").get("vocab_size")
    if not isinstance(rows, int):
        return []
    with _readable(directory):
        return [name for number, name in sorted(_added(directory).items()) if number >= rows]


def largest_token_id(directory: Path) -> int | None:
    """The largest id that the tokenizer's files name; None where there is no tokenizer."""
    with _readable(directory):
        return max([*_vocabulary(directory), *_added(directory)], default=None)


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
    """The model's own tokenizer, from its directory alone: a tokenizer of transformers.

    Where there is a tokenizer.json, its ids are those of `tokenizers.Tokenizer.from_file`, whatever
    class tokenizer_config.json names: transformers builds some classes anew from the vocabulary
    and drops what else the file says, and each version does so for others. Where there is only
    SentencePiece's tokenizer.model, they are the ids of that.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()  # long texts are cut later: its length warning misleads
    try:
        if content := tokenizer_content(model):
            return _of_content(model, content)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(model, local_files_only=True)
    except InputError:
        raise
    except BaseException as error:
        # Each tokenizer class fails in its own way, and a library in Rust with no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
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


def tokenizer_content(model: Path) -> str:
    """The tokenizer.json of a model: its own, or made of its tokenizer.model; empty: neither.

    Raises:
        InputError: the tokenizer.model cannot be converted.
    """
    if (model / TOKENIZER).is_file():
        return (model / TOKENIZER).read_text(encoding="utf-8-sig")
    pieces = model / SENTENCEPIECE
    if not pieces.is_file() or (model / "vocab.json").is_file():
        return ""
    read = SentencePiece.read(pieces)
    with _readable(model):
        framing = _framing(model, read)
    return to_json(tokenizer_json(read, framing, pieces), ensure_ascii=False)


def make_tokenizer_json(model: Path, say: Callable[[str], None]) -> None:
    """Write the tokenizer.json that a model with SentencePiece's file alone lacks, and say so.

    Where it cannot be made, why is said: the model is of use wherever no text is tokenised.
    """
    if (model / TOKENIZER).is_file():
        return
    try:
        content = tokenizer_content(model)
    except InputError as error:
        say(str(error))
        return
    if content:
        write_text(model / TOKENIZER, content)
        say(f"made {TOKENIZER} of {SENTENCEPIECE}")


def _framing(model: Path, pieces: SentencePiece) -> Framing:
    """What the files beside a tokenizer.model say; where they are silent, what Llama's say."""
    config = _object(model / "tokenizer_config.json")
    named = _special_tokens(model, pieces.named)
    added = {int(number): name for name, number in _object(model / "added_tokens.json").items()}
    special = set(named.values())
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        added[int(number)] = token["content"]
        special |= {token["content"]} if token.get("special") else set()
    return Framing(
        before=named.get("bos_token") if config.get("add_bos_token", True) else None,
        after=named.get("eos_token") if config.get("add_eos_token", False) else None,
        added=added,
        special=frozenset(special),
    )


def _of_content(model: Path, content: str) -> Any:
    """A tokenizer.json behind the calls of transformers."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(content)
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
    stated, config = stated_tokens(model), _object(model / "config.json")
    for role in ROLES:
        if role in stated:
            name = stated[role]
        else:
            ids = config.get(f"{role}_id")
            first = ids[0] if isinstance(ids, list) and ids else ids
            name = token_of(first) if isinstance(first, int) and first >= 0 else None
        if name:
            found[role] = name
    return found


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        content = from_json(path.read_bytes())
    except (OSError, NotJson):
        return {}
    return content if isinstance(content, dict) else {}


def _vocabulary(directory: Path) -> Iterator[int]:
    """The ids that the tokenizer's own vocabulary gives."""
    if (directory / TOKENIZER).is_file():
        vocabulary = _json(directory / TOKENIZER)["model"]["vocab"]
        if isinstance(vocabulary, dict):
            yield from map(_id, vocabulary.values())
        else:
            yield len(vocabulary) - 1
    elif (directory / "vocab.json").is_file():
        yield from map(_id, _json(directory / "vocab.json").values())
    elif (directory / SENTENCEPIECE).is_file():
        yield len(SentencePiece.read(directory / SENTENCEPIECE).pieces) - 1


def _added(directory: Path) -> dict[int, str]:
    """Tokens beside the vocabulary, by id; some are in it as well."""
    found: dict[int, str] = {}
    if (directory / TOKENIZER).is_file():
        content = _json(directory / TOKENIZER)
        tokens = content.get("added_tokens") or []
        found |= {_id(token["id"]): str(token["content"]) for token in tokens}
    if (directory / "added_tokens.json").is_file():
        content = _json(directory / "added_tokens.json")
        found |= {_id(number): name for name, number in content.items()}
    return found


def _id(number: Any) -> int:
    """A token's id.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(number, int):
        raise TypeError(number)
    return number


@contextmanager
def _readable(directory: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"the tokenizer files of {directory} cannot be read.") from None


def _json(path: Path) -> Any:
    return from_json(path.read_bytes())
