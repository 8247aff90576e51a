"""A tokenizer.model without a tokenizer.json, written here field by field, in every image."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from espalier.errors import InputError
from espalier.models.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, SentencePiece
from espalier.models.tokenizer import load_tokenizer, make_tokenizer_json

pytestmark = pytest.mark.every_image

SPECIAL = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
BYTES = [(f"<0x{number:02X}>", BYTE) for number in range(256)]
LETTERS = ["▁", *"abcde", "ab", "▁ab", "▁▁", "▁▁▁▁", "abc", "cd"]
BPE = b"\x18\x02"
AS_LLAMA = b"\x20\x00"
"""Runs of spaces are kept."""


def field(number: int, content: bytes) -> bytes:
    size, length = b"", len(content)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def piece(text: str, score: float, kind: int) -> bytes:
    return field(
        1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])
    )


def write_model(
    folder: Path,
    trained: bytes = BPE,
    normal: bytes = AS_LLAMA,
    letters: Sequence[tuple[str, int]] = (),
) -> Path:
    named = [*SPECIAL, *BYTES]
    content = b"".join(piece(text, 0.0, kind) for text, kind in named)
    ranked = [*((letter, NORMAL) for letter in LETTERS), *letters]
    content += b"".join(piece(text, -float(n), kind) for n, (text, kind) in enumerate(ranked))
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(content + field(2, trained) + field(3, normal))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (folder / "config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2}')
    return folder


def tokens(folder: Path, text: str) -> list[str]:
    tokenizer = load_tokenizer(folder)
    return list(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ab", "▁ab"),
        ("", ""),
        (" ab", "▁ ▁ab"),
        ("ab   ab", "▁ab ▁▁ ▁ab"),
        ("a     b", "▁ a ▁▁▁▁ ▁ b"),
        ("abcd\n", "▁ab cd <0x0A>"),
        ("é", "▁ <0xC3> <0xA9>"),
        ("<0x41>", "▁ <0x3C> <0x30> <0x78> <0x34> <0x31> <0x3E>"),
    ],
)
def test_texts_have_the_tokens_of_sentencepiece(tmp_path: Path, text: str, said: str) -> None:
    assert tokens(write_model(tmp_path), text) == ["<s>", *said.split()]


def test_spaces_are_collapsed_where_the_model_says_so(tmp_path: Path) -> None:
    folder = write_model(tmp_path, normal=b"")
    assert tokens(folder, "  ab   c ") == ["<s>", "▁ab", "▁", "c"]
    assert tokens(folder, "   ") == ["<s>"]


def test_what_is_written_beside_the_model_gives_the_same(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    text = "ab  cde\n\nx<unk>"
    before = load_tokenizer(folder)(text)["input_ids"]
    said: list[str] = []
    make_tokenizer_json(folder, said.append)
    make_tokenizer_json(folder, said.append)
    assert said == ["made tokenizer.json of tokenizer.model"]
    (folder / "tokenizer.model").unlink()
    tokenizer = load_tokenizer(folder)
    assert tokenizer(text)["input_ids"] == before
    assert (tokenizer.bos_token, tokenizer.eos_token_id) == ("<s>", 2)


def test_tokens_beside_the_pieces_keep_their_ids(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    count = len(SentencePiece.read(folder / "tokenizer.model").pieces)
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": count + 1, "<mine>": count}))
    config = {"pad_token": "<pad>", "bos_token": "<s>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<mine>")) == (count + 1, count)
    assert tokens(folder, "ab<mine>") == ["▁ab", "<mine>"]
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": count + 1}))
    with pytest.raises(InputError, match=r"correct added_tokens\.json"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"trained": b"\x18\x03"}, "is neither BPE nor Unigram"),
        ({"trained": BPE + b"\xc0\x01\x01"}, "puts spaces behind words"),
        ({"letters": [("x", UNUSED)]}, "has unused pieces"),
    ],
)
def test_what_cannot_be_said_is_refused(tmp_path: Path, given: dict[str, bytes], says: str) -> None:
    with pytest.raises(InputError, match=f"{says}.*; put the tokenizer.json"):
        load_tokenizer(write_model(tmp_path, **given))
    said: list[str] = []
    make_tokenizer_json(tmp_path, said.append)
    assert says in said[0]
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize("content", [b"", b"IQ== 0\nIg== 1\n", b"\x0a\x03\x0a\x09x"])
def test_another_file_of_that_name_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(InputError, match="is no SentencePiece model"):
        load_tokenizer(tmp_path)
