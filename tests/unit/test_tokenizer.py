"""A model's tokenizer: the ids of tokenizer.json whatever its class is called, in every image."""

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from espalier.models.tokenizer import PROBE, load_tokenizer, probe_hash

pytestmark = pytest.mark.every_image

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Digits(individual_digits=True)
SPLIT = pre_tokenizers.Split(Regex(r"\d{1,3}| ?[^\s\d]+|\s+"), "isolated")
KINDS = {
    "digits": (pre_tokenizers.Sequence([DIGITS, pre_tokenizers.Metaspace()]), None),
    "lower": (pre_tokenizers.Metaspace(prepend_scheme="never"), normalizers.Lowercase()),
    "bytes": (BYTES, None),
    "split bytes": (
        pre_tokenizers.Sequence(
            [SPLIT, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        ),
        None,
    ),
}
TEXTS = [f"In 2024 the River {n}  ran\n\n{n * 37} Miles <s> é" for n in range(50)] + [
    "",
    " ",
    PROBE,
]


def write_tokenizer(folder: Path, kind: str, label: str | None) -> Tokenizer:
    """tokenizer.json of a kind, beside a tokenizer_config.json that names the class `label`."""
    made = Tokenizer(models.BPE())
    before, normalizer = KINDS[kind]
    made.pre_tokenizer, made.decoder = before, decoders.ByteLevel()
    if normalizer:
        made.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    made.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>"}
    if label:
        settings["tokenizer_class"] = label
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    "label", ["LlamaTokenizerFast", "LlamaTokenizer", "GPT2Tokenizer", "TokenizersBackend", None]
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_are_those_of_the_file(tmp_path: Path, kind: str, label: str | None) -> None:
    told = write_tokenizer(tmp_path, kind, label)
    tokenizer = load_tokenizer(tmp_path)
    for text in TEXTS:
        ids = told.encode(text).ids
        assert tokenizer(text)["input_ids"] == tokenizer.encode(text) == ids
        bare = told.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_special_tokens=False) == bare
    assert tokenizer(TEXTS[:3])["input_ids"] == [told.encode(text).ids for text in TEXTS[:3]]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert (tokenizer.pad_token_id, len(tokenizer)) == (None, told.get_vocab_size())


def test_a_special_token_that_is_a_piece_stays_one(tmp_path: Path) -> None:
    """What tokenizer_config.json calls special, and tokenizer.json does not, is no separator."""
    write_tokenizer(tmp_path, "bytes", "LlamaTokenizerFast")
    content = json.loads((tmp_path / "tokenizer.json").read_text()) | {"added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    told, tokenizer = (
        Tokenizer.from_file(str(tmp_path / "tokenizer.json")),
        load_tokenizer(tmp_path),
    )
    assert tokenizer("a</s>b")["input_ids"] == told.encode("a</s>b").ids
    assert tokenizer.eos_token_id == told.token_to_id("</s>")
    assert tokenizer.eos_token_id not in tokenizer("a</s>b")["input_ids"]


def test_a_file_that_cuts_off_texts_cuts_none(tmp_path: Path) -> None:
    told = write_tokenizer(tmp_path, "bytes", None)
    whole = told.encode(PROBE).ids
    told.enable_truncation(4)
    told.enable_padding(length=500)
    told.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path)(PROBE)["input_ids"] == whole


def test_names_of_special_tokens_may_be_in_other_files(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "bytes", None)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "config.json").write_text('{"bos_token_id": 0, "eos_token_id": [1, 0]}')
    assert load_tokenizer(tmp_path).eos_token == "</s>"
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": null, "eos_token": "<s>"}')
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_token, tokenizer.eos_token_id) == (None, 0)


def test_a_probe_tells_tokenizers_apart(tmp_path: Path) -> None:
    found = set()
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        write_tokenizer(tmp_path / kind, kind, "LlamaTokenizer")
        found.add(probe_hash(load_tokenizer(tmp_path / kind)))
    assert len(found) == len(KINDS)
