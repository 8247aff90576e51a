"""Which tokenizers are the same: what decides a text's ids, not how their files came to be."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from espalier.errors import InputError
from espalier.models.tokenizer import require_same_tokenizer, tokenizer_hash
from espalier.models.tokenizer_identity import files_hash, stated_tokens
from tests.tiny import tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tokenizer with the companions that older versions write."""
    directory = tmp_path / "model"
    tokenizer().save_pretrained(directory)
    content = json.loads((directory / "tokenizer.json").read_text())
    (directory / "added_tokens.json").write_text(json.dumps({"<s>": 0, "</s>": 1}))
    (directory / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    (directory / "merges.txt").write_text("#version: 0.2")
    return directory


def changed(model: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy in which one of the JSON files is another."""
    target = model.parent / f"changed-{len(list(model.parent.iterdir()))}"
    shutil.copytree(model, target)
    content = json.loads((target / name).read_text())
    change(content)
    (target / name).write_text(json.dumps(content))
    return target


@pytest.mark.parametrize("absent", ["added_tokens.json", "vocab.json", "merges.txt"])
def test_companions_decide_nothing_beside_tokenizer_json(model: Path, absent: str) -> None:
    before = tokenizer_hash(model)
    (model / absent).unlink()
    assert tokenizer_hash(model) == before
    (model / "tokenizer.model").write_bytes(b"another form of the same")
    assert tokenizer_hash(model) == before


def test_saved_again_it_is_the_same(model: Path) -> None:
    again = model.parent / "again"
    PreTrainedTokenizerFast.from_pretrained(model).save_pretrained(again)
    assert tokenizer_hash(again) == tokenizer_hash(model)
    Tokenizer.from_file(str(model / "tokenizer.json")).save(str(again / "tokenizer.json"), False)
    assert tokenizer_hash(again) == tokenizer_hash(model)


def _older(content: dict[str, Any]) -> None:
    """As tokenizers of years ago wrote it."""
    parts = content["model"]
    parts["merges"] = [" ".join(pair) for pair in parts["merges"]]
    for key in ("type", "ignore_merges", "byte_fallback", "fuse_unk"):
        parts.pop(key, None)
    for key in ("use_regex", "trim_offsets"):
        content["pre_tokenizer"].pop(key, None)
    content["model"] = dict(reversed(list(parts.items())))


SAME: dict[str, Callable[[dict[str, Any]], None]] = {
    "older": _older,
    "truncates": lambda content: content.update(truncation={"max_length": 8}),
    "pads": lambda content: content.update(padding={"pad_id": 0}),
    "decodes otherwise": lambda content: content.update(decoder=None),
    "no post-processor": lambda content: content.update(post_processor=None),
    "order of added tokens": lambda content: content["added_tokens"].reverse(),
}
OTHER: dict[str, Callable[[dict[str, Any]], None]] = {
    "merges": lambda content: content["model"]["merges"].reverse(),
    "vocabulary": lambda content: content["model"]["vocab"].update(new=900),
    "added": lambda content: content["added_tokens"].append({"id": 901, "content": "<x>"}),
    "special": lambda content: content["added_tokens"][0].update(special=False),
    "id": lambda content: content["added_tokens"][0].update(id=7),
    "normaliser": lambda content: content.update(normalizer={"type": "NFC"}),
    "pre-tokenizer": lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
    "regex": lambda content: content["pre_tokenizer"].update(use_regex=False),
    "byte fallback": lambda content: content["model"].update(byte_fallback=True),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_decides_no_id(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    assert tokenizer_hash(changed(model, "tokenizer.json", change)) == tokenizer_hash(model)


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_what_decides_ids(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    other = changed(model, "tokenizer.json", change)
    assert tokenizer_hash(other) != tokenizer_hash(model)
    with pytest.raises(InputError, match=r"has another \(.*make the data with TOKENIZER="):
        require_same_tokenizer(Path("data"), tokenizer_hash(model) or "", other)


def test_bos_and_eos_decide(model: Path) -> None:
    config = "tokenizer_config.json"
    other = changed(model, config, lambda content: content.update(eos_token="<s>"))
    assert tokenizer_hash(other) != tokenizer_hash(model)
    spelled = changed(model, config, lambda content: content.update(eos_token={"content": "</s>"}))
    assert tokenizer_hash(spelled) == tokenizer_hash(model)
    elsewhere = changed(model, config, lambda content: content.pop("eos_token"))
    (elsewhere / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>"}))
    assert stated_tokens(elsewhere)["eos_token"] == "</s>"
    assert tokenizer_hash(elsewhere) == tokenizer_hash(model)
    rest = changed(
        model, config, lambda content: content.update(model_max_length=7, chat_template="")
    )
    assert tokenizer_hash(rest) == tokenizer_hash(model)


def test_metaspace_of_two_ages(model: Path) -> None:
    def newer(scheme: str) -> Callable[[dict[str, Any]], None]:
        parts = {"type": "Metaspace", "replacement": "_", "prepend_scheme": scheme, "split": True}
        return lambda content: content.update(pre_tokenizer=parts)

    def older(prefix: bool) -> Callable[[dict[str, Any]], None]:
        parts = {
            "type": "Metaspace", "replacement": "_", "str_rep": "_", "add_prefix_space": prefix,
        }  # fmt: skip
        return lambda content: content.update(pre_tokenizer=parts)

    def hash_of(change: Callable[[dict[str, Any]], None]) -> str | None:
        return tokenizer_hash(changed(model, "tokenizer.json", change))

    assert hash_of(older(True)) == hash_of(newer("always"))
    assert hash_of(older(False)) == hash_of(newer("never"))
    assert len({hash_of(newer(scheme)) for scheme in ("always", "never", "first")}) == 3


def test_other_files_decide_where_there_is_no_tokenizer_json(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    before = tokenizer_hash(model)
    assert before == files_hash(model)
    (model / "merges.txt").write_text("a b")
    assert tokenizer_hash(model) != before


def test_data_of_before_keep_their_model(model: Path) -> None:
    """They hold the hash of the files; the very same files are still the same tokenizer."""
    require_same_tokenizer(Path("data"), files_hash(model) or "", model)
