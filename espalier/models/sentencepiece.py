"""A SentencePiece model as the content of a tokenizer.json that gives the same ids.

Read and converted here, since each version of transformers converts it in its own way: what the
model file says is kept (its normalization, whether spaces are collapsed, byte fallback), and the
same file has the same ids in every image. Needs no package.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espalier.errors import InputError
from espalier.models.charsmap import Charsmap

SPACE = "\u2581"
"""What stands for a space in pieces."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2


@dataclass(frozen=True)
class Piece:
    """An entry of the vocabulary; its id is its place."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


@dataclass(frozen=True)
class SentencePiece:
    """What a model file says.

    Attributes:
        charsmap: the normalization, compiled; empty: none.
        prefix: a space is put before every text.
        collapse: spaces at the ends are dropped, and runs of them are one.
        suffix: the space belongs to the word before it.
        bos: the id of the piece that begins a text, as the model was trained; -1: none.
    """

    pieces: tuple[Piece, ...]
    model: int = UNIGRAM
    charsmap: bytes = b""
    prefix: bool = True
    collapse: bool = True
    suffix: bool = False
    bos: int = 1
    eos: int = 2

    @classmethod
    def read(cls, path: Path) -> "SentencePiece":
        """Read a tokenizer.model.

        Raises:
            InputError: it is none, such as the rank file of tiktoken.
        """
        try:
            return cls._of(path.read_bytes())
        except (ValueError, LookupError, TypeError, AttributeError, struct.error):
            raise InputError(
                f"{path} is no SentencePiece model; put the tokenizer.json of the model beside it."
            ) from None

    @classmethod
    def _of(cls, content: bytes) -> "SentencePiece":
        parts: dict[int, list[Any]] = {1: [], 2: [], 3: []}
        for number, value in _fields(content):
            if number in parts:
                parts[number].append(value)
        trained = dict(_fields(b"".join(parts[2])))
        normal = dict(_fields(b"".join(parts[3])))
        pieces = tuple(_piece(dict(_fields(value))) for value in parts[1])
        if not pieces:
            raise ValueError("no pieces")
        return cls(
            pieces,
            model=trained.get(3, UNIGRAM),
            charsmap=normal.get(2, b""),
            prefix=bool(normal.get(3, 1)),
            collapse=bool(normal.get(4, 1)),
            suffix=bool(trained.get(24, 0)),
            bos=_signed(trained.get(41, 1)),
            eos=_signed(trained.get(42, 2)),
        )

    def named(self, number: int) -> str | None:
        """The control piece of that id."""
        known = 0 <= number < len(self.pieces) and self.pieces[number].kind == CONTROL
        return self.pieces[number].text if known else None


@dataclass(frozen=True)
class Framing:
    """What a model's other files say about its special tokens.

    Attributes:
        before: the token before every text, where there is one.
        after: the token after it.
        added: tokens beside the pieces, by id.
        special: those of them that are no text.
    """

    before: str | None = None
    after: str | None = None
    added: Mapping[int, str] = field(default_factory=dict)
    special: frozenset[str] = frozenset()


def tokenizer_json(model: SentencePiece, framing: Framing, path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json; `path` is for the errors.

    Raises:
        InputError: the model has what a tokenizer.json cannot say.
    """
    _check(model, path)
    names = [piece.text for piece in model.pieces]
    for number, name in sorted(framing.added.items()):
        if number < len(model.pieces):
            names[number] = name
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added(model, names, framing, path)),
        "normalizer": {"type": "Sequence", "normalizers": list(_normalizers(model))},
        "pre_tokenizer": _pre_tokenizer(model),
        "post_processor": _framed(names, framing),
        "decoder": {"type": "Sequence", "decoders": list(_decoders(model))},
        "model": (_merging if model.model == BPE else _unigram)(model, names),
    }


def _check(model: SentencePiece, path: Path) -> None:
    kinds = {piece.kind for piece in model.pieces}
    wrong = {
        "is neither BPE nor Unigram": model.model not in (UNIGRAM, BPE),
        "puts spaces behind words": model.suffix,
        "has unused pieces": UNUSED in kinds,
        "has no unknown piece": UNKNOWN not in kinds,
        "normalizes text, but not the user's own pieces": bool(model.charsmap)
        and USER_DEFINED in kinds,
        "normalizes text, and not as NFKC": bool(model.charsmap)
        and not Charsmap(model.charsmap).is_nfkc,
    }
    for what, found in wrong.items():
        if found:
            raise InputError(
                f"{path} {what}, which a tokenizer.json made here cannot say; put the "
                "tokenizer.json of the model beside it."
            )


def _added(
    model: SentencePiece, names: list[str], framing: Framing, path: Path
) -> Iterator[dict[str, Any]]:
    """The control pieces and the tokens beside the pieces, in the order of their ids."""
    own = {n: names[n] for n, piece in enumerate(model.pieces) if piece.kind in (UNKNOWN, CONTROL)}
    beside = dict(framing.added)
    for place, number in enumerate(sorted(n for n in beside if n >= len(names)), len(names)):
        if number != place:
            raise InputError(
                f"{path} has {len(names)} pieces and the first token added beside them is "
                f"{beside[number]} with id {number}, not {place}; correct added_tokens.json."
            )
    for number, name in sorted({**own, **beside}.items()):
        special = number in own or name in framing.special
        yield {
            "id": number, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special,
        }  # fmt: skip


def _normalizers(model: SentencePiece) -> Iterator[dict[str, Any]]:
    if model.charsmap:
        yield from Charsmap(model.charsmap).normalizers()
    if model.collapse:
        yield _replace({"Regex": rf"\A +|[ {SPACE}]+\z"}, "")
        yield _replace({"Regex": " {2,}"}, " ")
    if model.prefix:
        yield {"type": "Prepend", "prepend": SPACE}
    yield _replace({"String": " "}, SPACE)


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _pre_tokenizer(model: SentencePiece) -> dict[str, Any] | None:
    """Where a text is cut: at a user's own pieces, and in what spells out a byte's piece.

    A BPE has to be given its user's pieces alone, since no merges lead to them, nor to those of
    bytes. A Unigram finds the former by their score; no text such as <0x41> may be the latter.
    """
    if model.model == BPE:
        own = sorted(_own(model), key=len, reverse=True)
        regex = "|".join(map(re.escape, own))
    else:
        regex = "<(?=0x[0-9A-F]{2}>)" if _falls_back(model) else ""
    if not regex:
        return None
    pattern = {"Regex": regex}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _own(model: SentencePiece) -> list[str]:
    return [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]


def _decoders(model: SentencePiece) -> Iterator[dict[str, Any]]:
    yield _replace({"String": SPACE}, " ")
    yield {"type": "ByteFallback"}
    yield {"type": "Fuse"}
    if model.prefix:
        yield {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def _framed(names: list[str], framing: Framing) -> dict[str, Any] | None:
    ids = {name: number for number, name in enumerate(names)} | {
        name: number for number, name in framing.added.items()
    }
    around = [name for name in (framing.before, framing.after) if name in ids]

    def framed(sequence: str, kind: int) -> list[dict[str, Any]]:
        def special(name: str | None) -> list[dict[str, Any]]:
            found = name is not None and name in ids
            return [{"SpecialToken": {"id": name, "type_id": kind}}] if found else []

        text = {"Sequence": {"id": sequence, "type_id": kind}}
        return [*special(framing.before), text, *special(framing.after)]

    if not around:
        return None
    return {
        "type": "TemplateProcessing",
        "single": framed("A", 0),
        "pair": framed("A", 0) + framed("B", 1),
        "special_tokens": {
            name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in around
        },
    }


def _merging(model: SentencePiece, names: list[str]) -> dict[str, Any]:
    unknown = next(n for n, piece in enumerate(model.pieces) if piece.kind == UNKNOWN)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": names[unknown],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": _falls_back(model),
        "ignore_merges": bool(_own(model)),  # a whole cut that is a piece is that piece
        "vocab": {name: number for number, name in enumerate(names)},
        "merges": list(_merges(model)),
    }


def _merges(model: SentencePiece) -> Iterator[list[str]]:
    """Pairs in the order in which they are merged: by the score of what they make."""
    known = {piece.text for piece in model.pieces if piece.kind == NORMAL}
    normal = (piece for piece in model.pieces if piece.kind == NORMAL)
    for piece in sorted(normal, key=lambda piece: -piece.score):
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in known and right in known:
                yield [left, right]


def _unigram(model: SentencePiece, names: list[str]) -> dict[str, Any]:
    kinds = [piece.kind for piece in model.pieces]
    best = max((p.score for p in model.pieces if p.kind == NORMAL), default=0.0)

    def score(piece: Piece) -> float:
        """A user's own piece wins over every way to put it together, as SentencePiece has it."""
        return len(piece.text) * best - 0.1 if piece.kind == USER_DEFINED else piece.score

    return {
        "type": "Unigram",
        "unk_id": kinds.index(UNKNOWN),
        "vocab": [[name, score(piece)] for name, piece in zip(names, model.pieces, strict=True)],
        "byte_fallback": _falls_back(model),
    }


def _falls_back(model: SentencePiece) -> bool:
    return any(piece.kind == BYTE for piece in model.pieces)


def _piece(fields: Mapping[int, Any]) -> Piece:
    return Piece(fields[1].decode("utf-8"), fields.get(2, 0.0), fields.get(3, NORMAL))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers, floats and bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
        elif wire == 2:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise ValueError("the message is cut off")
            yield number, message[position : position + length]
            position += length
        elif wire == 5:
            yield number, struct.unpack_from("<f", message, position)[0]
            position += 4
        elif wire == 1:
            yield number, struct.unpack_from("<d", message, position)[0]
            position += 8
        else:
            raise ValueError(f"wire type {wire}")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number
