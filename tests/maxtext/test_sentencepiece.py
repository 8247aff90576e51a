"""SentencePiece's own ids beside those of the tokenizer.json that is made of its model.

The package is in this image alone; the conversion needs none.
"""

import io
import json
import random
from pathlib import Path

import pytest

pytestmark = pytest.mark.maxtext

spm = pytest.importorskip("sentencepiece")

from tokenizers import Tokenizer  # noqa: E402

from espalier.models.tokenizer import PROBE, make_tokenizer_json  # noqa: E402

WORDS = [
    "tree",
    "root",
    "Light",
    "große",
    "naïve",
    "日本語",
    "テキスト",
    "한국어",
    "привет",
    "12345",
]
PARTS = [
    "[U]",
    "é é",
    "か\u3099",
    "\u1112\u1161\u11ab",
    "\uff5e",
    "  ",
    "tree ",
    "root",
    "e\u0301",
    "\u2460",
]
ALPHABET = [*"abedt \n▁é日😀한Z~\u200d", "a\u0301", *PARTS]
ODD = ["", " ", "  a  b  ", "\n\n\ta\r\n", "▁", "a▁b ▁", " " * 33, "<0x41> <0x0A>", "\x01a\x00"]


def texts() -> list[str]:
    draw = random.Random(1)
    drawn = ["".join(draw.choices(ALPHABET, k=draw.randrange(1, 40))) for _ in range(600)]
    return [text.replace("<s>", "").replace("</s>", "") for text in [*ODD, PROBE, *drawn]]


@pytest.mark.parametrize("normalization", ["identity", "nmt_nfkc", "nfkc"])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_ids_are_sentencepieces_own(tmp_path: Path, kind: str, normalization: str) -> None:
    draw = random.Random(0)
    corpus = [" ".join(draw.choices(WORDS, k=30)) + "   x  y\tz" for _ in range(300)]
    for number in range(8):
        folder, written = tmp_path / str(number), io.BytesIO()
        own = ["[U]", "root", "é é"] if normalization == "identity" else []
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=written,
            vocab_size=360,
            hard_vocab_limit=False,
            model_type=kind,
            normalization_rule_name=normalization,
            byte_fallback=bool(number & 1),
            add_dummy_prefix=bool(number & 2),
            remove_extra_whitespaces=bool(number & 4),
            user_defined_symbols=own,
            character_coverage=0.98,
            allow_whitespace_only_pieces=True,
            minloglevel=2,
        )
        folder.mkdir()
        (folder / "tokenizer.model").write_bytes(written.getvalue())
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
        make_tokenizer_json(folder, print)
        made = Tokenizer.from_file(str(folder / "tokenizer.json"))
        theirs = spm.SentencePieceProcessor(model_proto=written.getvalue())
        for text in texts():
            assert made.encode(text, add_special_tokens=False).ids == theirs.encode(text), text
