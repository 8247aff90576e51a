"""Special tokens that a text spells out are text, whatever the kind of tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("numpy")

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from espalier.data.tokenizing import Tokenizing

SPECIAL = ["<unk>", "<s>", "</s>"]
WORDS = ["the stone in the river < / s >", "a leaf on a tree </s>", "<s> moss and sand"] * 30
TEXTS = ["a </s> b <s> c", "</s>", "<s><s></s>", "x</s>y", "the </S> leaf <unk>", "plain stone"]


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False,
        initial_alphabet=list("</>sabcxyS"),
    )  # fmt: skip
    made.train_from_iterator(WORDS, trainer)
    return made


def merging() -> Tokenizer:
    """A BPE whose merges lead to `</s>`, and whose special tokens are not said to be special."""
    letters = sorted({letter for text in WORDS + TEXTS for letter in text} | {" "})
    pairs = [("<", "s"), ("<", "/"), ("s", ">"), ("<s", ">"), ("</", "s>")]
    pieces = [*SPECIAL, *letters, *(left + right for left, right in pairs if left != "<s")]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>"))


def word_list() -> Tokenizer:
    words = dict.fromkeys(word for text in WORDS + TEXTS for word in text.split())
    made = Tokenizer(
        models.WordLevel({w: n for n, w in enumerate(dict.fromkeys([*SPECIAL, *words]))}, "<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def word_pieces() -> Tokenizer:
    pieces = [*SPECIAL, *"abcxy</>sS", "the", "leaf", "stone", "plain", "##</", "##s>", "##y"]
    made = Tokenizer(models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def unknown_is_eos() -> Tokenizer:
    """As GPT-2: what no piece matches would be the end of the document."""
    vocabulary = {piece: n for n, piece in enumerate(["<unk>", "<s>", "</s>", *"abc "])}
    return Tokenizer(models.BPE(vocabulary, [], unk_token="</s>"))


KINDS = [unigram, merging, word_list, word_pieces, unknown_is_eos]


def framed_by(folder: Path, made: Tokenizer) -> Tokenizing:
    """`made` as a model's tokenizer, which puts BOS before a text of its own accord."""
    begin, end = made.token_to_id("<s>"), made.token_to_id("</s>")
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    limits = {"vocab_size": made.get_vocab_size(), "max_position_embeddings": 8}
    (folder / "config.json").write_text(json.dumps(limits))
    found = Tokenizing.of(folder)
    assert (found.frame.bos, found.frame.eos) == (begin, end)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", [False, True])
def test_no_document_holds_bos_or_eos(
    tmp_path: Path, kind: Callable[[], Tokenizer], added: bool
) -> None:
    made = kind()
    if added:
        made.add_special_tokens(["<s>", "</s>"])
    tokenizing = framed_by(tmp_path, made)
    own = tokenizing.frame.ids
    spelled = (made.encode(text, add_special_tokens=False).ids for text in TEXTS)
    assert not all(own.isdisjoint(ids) for ids in spelled)
    for text, ids in zip(TEXTS, tokenizing(TEXTS), strict=True):
        assert own.isdisjoint(tokenizing.frame.without(ids)), text
        if kind is not unknown_is_eos:
            assert own.isdisjoint(ids), text
            assert ids


@pytest.mark.parametrize("kind", [unigram, merging, word_list, word_pieces])
def test_other_texts_have_the_same_tokens(tmp_path: Path, kind: Callable[[], Tokenizer]) -> None:
    texts = ["a leaf", "the stone", "plain tree  and", "sand < / s >", "x"]
    made = kind()
    before = [one.ids for one in made.encode_batch(texts, add_special_tokens=False)]
    assert framed_by(tmp_path, made)(texts) == before


def test_what_a_unigram_spells_out_is_still_there(tmp_path: Path) -> None:
    made = unigram()
    [ids] = framed_by(tmp_path, made)(["a </s> b"])
    pieces = "".join(map(str, map(made.id_to_token, ids)))
    assert pieces == "\u2581a\u2581</s>\u2581b"
