"""Configurations, manifests and tokenizers from elsewhere: read, or refused in one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espalier.contract.json_text import DEEPEST, NotJson, from_json
from espalier.contract.lineage import account_of, descends_from, lineage, readings_of
from espalier.contract.manifest import MANIFEST, check_files, pruning_of, recorded_checks
from espalier.contract.pruned import Padded, PaddedLayer, Sizes
from espalier.contract.store import Store
from espalier.contract.summaries import summaries
from espalier.data.text import DESCRIPTION, Description
from espalier.data.token_ids import ModelLimits
from espalier.data.tokens import INDEX
from espalier.data.tokens.reader import TokenData
from espalier.errors import InputError
from espalier.host.cli.inspect import show
from espalier.models.content import check_content, dtype_note
from espalier.models.gates import check_parent
from espalier.models.shapes import Shapes, config_notes, read_config
from espalier.models.tokenizer import (
    check_tokenizer,
    largest_token_id,
    load_tokenizer,
    tokenizer_hash,
    tokens_without_row,
)
from tests.tiny import tiny_llama
from tests.unit.absurd import RAW, one_sentence, spoilt, text_of

KEPT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
SLOW = settings(KEPT, max_examples=40)
SCALARS = st.none() | st.booleans() | st.text() | st.integers(-(10**299), 10**299)
VALUES = st.recursive(
    SCALARS | st.floats(allow_nan=False, allow_infinity=False),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
)


@given(VALUES)
def test_json_is_read_as_by_the_library(value: Any) -> None:
    text = json.dumps(value)
    assert from_json(text) == from_json(b"\xef\xbb\xbf" + text.encode()) == json.loads(text)


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_json_is_refused(name: str) -> None:
    text = f'{{"a": [{RAW[name]}, 1]}}'
    with pytest.raises(NotJson, match=r"holds|is not JSON|nested more than"):
        from_json(text)


def test_as_deep_as_any_file_is_read() -> None:
    assert from_json("[" * DEEPEST + "]" * DEEPEST)
    with pytest.raises(NotJson, match=f"nested more than {DEEPEST} deep"):
        from_json("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 288, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6, "rope_theta": 1e4, "rope_scaling": None, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "float32", "pretraining_tp": 1,
    "bos_token_id": 0, "eos_token_id": [1], "attention_bias": False, "mlp_bias": False,
    "quantization_config": None, "initializer_range": 0.02,
}  # fmt: skip


@KEPT
@given(spoilt(CONFIG))
def test_a_config_from_elsewhere(model: Path, tmp_path: Path, config: Any) -> None:
    directory = as_good(model, tmp_path)
    (directory / "config.json").write_bytes(text_of(config))
    for reader in (read_config, config_notes, check_content, dtype_note, ModelLimits.of):
        with one_sentence():
            reader(directory)
    with one_sentence():
        Shapes.of(read_config(directory))


@SLOW
@given(spoilt(CONFIG))
def test_a_model_with_such_a_config(model: Path, tmp_path: Path, config: Any) -> None:
    directory = as_good(model, tmp_path)
    (directory / "config.json").write_bytes(text_of(config))
    with one_sentence():
        check_parent(directory)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 2**30),
        ("num_hidden_layers", 10**299),
        ("num_attention_heads", 0),
        ("num_attention_heads", 1e300),
        ("hidden_size", -32),
        ("head_dim", 2**20),
        ("vocab_size", 2**31),
        ("vocab_size", "288"),
        ("intermediate_size", 2**63),
        ("max_position_embeddings", True),
        ("num_key_value_heads", [2]),
    ],
)
def test_no_size_is_made_that_a_config_only_claims(
    model: Path, tmp_path: Path, key: str, value: Any
) -> None:
    directory = as_good(model, tmp_path)
    (directory / "config.json").write_bytes(text_of(CONFIG | {key: value}))
    with one_sentence(), pytest.raises(InputError, match=r"config"):
        check_parent(directory)


def as_good(model: Path, root: Path) -> Path:
    directory = root / "tiny"
    if not directory.exists():
        shutil.copytree(model, directory)
    return directory


@KEPT
@given(st.data())
def test_a_tokenizer_from_elsewhere(model: Path, tmp_path: Path, data: st.DataObject) -> None:
    directory = as_good(model, tmp_path)
    name = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    good = json.loads((model / name).read_bytes())
    if name == "tokenizer.json":  # few, so that the other places are hit too
        good["model"]["merges"] = good["model"]["merges"][:2]
        good["model"]["vocab"] = dict(list(good["model"]["vocab"].items())[:3])
    (directory / name).write_bytes(text_of(data.draw(spoilt(good))))
    readers = (tokenizer_hash, tokens_without_row, largest_token_id, load_tokenizer)
    for reader in (*readers, lambda given: check_tokenizer(given, 288)):
        with one_sentence():
            reader(directory)
    (directory / name).write_bytes((model / name).read_bytes())


def manifest() -> dict[str, Any]:
    """One that says all that a manifest can."""
    sizes = Sizes(layers=1, hidden=8, intermediate=8, heads=2, kv_heads=2)
    layer = PaddedLayer(heads=1, kv_heads=1, intermediate=8,
                        padding={"heads": ((1, 2),), "kv_heads": ((1, 2),)})  # fmt: skip
    padded = Padded(before=sizes, after=sizes, achieved=0.1, layers=(layer,))
    record = {"name": "models/parent", "content": "c" * 64, "fingerprint": None}
    return {
        "contract": 1, "stage": "wanda", "verb": "prune", "name": "m", "seed": 0,
        "parameters": {"sparsity": 0.5}, "inputs": {"model": record}, "parents": ["models/parent"],
        "image": {"name": "wanda", "lock": "0" * 64}, "code": {"sha256": "0" * 64},
        "command": ["x"], "fingerprint": "f" * 64, "content": "c" * 64,
        "recipe": {"stage": "wanda", "parameters": {}, "inputs": {"model": "c" * 64}},
        "files": [{"path": "config.json", "size": 2, "sha256": "0" * 64}],
        "model": {"parameters": 10, "nonzero": 5}, "pruning": padded.model_dump(mode="json"),
        "training": None, "checks": {"stock_logits": {"transformers": "5"}}, "notes": {},
        "ledger": [{"kind": "training", "stage": "x", "name": "m", "tokens": 5, "flops": 1e9}],
        "data": {"samples": 1, "seqlen": 2}, "environment": {"packages": {"torch": "2"}},
        "timing": {"started": "now", "seconds": 1}, "peak_memory_bytes": 5,
    }  # fmt: skip


@KEPT
@given(spoilt(manifest()))
def test_a_manifest_from_elsewhere(tmp_path: Path, content: Any) -> None:
    store = Store(tmp_path)
    directory = tmp_path / "models" / "m"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}")
    (directory / MANIFEST).write_bytes(text_of(content))
    for reader in (pruning_of, recorded_checks, check_files, account_of):
        with one_sentence():
            reader(directory)
    with one_sentence():
        readings_of([directory])
    with one_sentence():
        descends_from(directory, "grow")
    with one_sentence():
        show([f"STORE={tmp_path}", "CKPT=models/m"])
    assert [name for _, name, _ in summaries(store)] == ["m"]


@pytest.mark.parametrize(
    "pruning",
    [
        {"kept_layers": [0]},
        {"kept_layers": 5, "target": {}, "achieved": 0},
        manifest()["pruning"] | {"after": manifest()["pruning"]["after"] | {"kv_heads": 0}},
        manifest()["pruning"] | {"after": manifest()["pruning"]["after"] | {"heads": 2**60}},
    ],
)
def test_a_pruning_of_no_form(tmp_path: Path, pruning: Any) -> None:
    (tmp_path / MANIFEST).write_bytes(text_of(manifest() | {"pruning": pruning}))
    with pytest.raises(InputError, match=r"is not a manifest of contract 1 \(pruning"):
        pruning_of(tmp_path)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "ü" * 200])
def test_a_manifest_names_files_of_its_own(tmp_path: Path, path: str) -> None:
    file = {"path": path, "size": 1, "sha256": "0" * 64}
    (tmp_path / MANIFEST).write_bytes(text_of(manifest() | {"files": [file]}))
    with pytest.raises(InputError, match=r"is not a manifest of contract 1 \(files\.0\.path\)"):
        check_files(tmp_path)


@pytest.mark.parametrize("name", ["../../x", "/etc", "x" * 300])
def test_a_manifest_names_inputs_on_its_store(tmp_path: Path, name: str) -> None:
    inputs = {"model": {"name": name, "content": "c"}}
    (tmp_path / MANIFEST).write_bytes(text_of(manifest() | {"inputs": inputs}))
    with pytest.raises(InputError, match=r"of contract 1 \(inputs\.model\.name\)"):
        list(lineage(tmp_path, tmp_path))


def test_a_lineage_that_comes_back_to_itself_ends(tmp_path: Path) -> None:
    directory = tmp_path / "models" / "m"
    directory.mkdir(parents=True)
    inputs = {role: {"name": "models/m", "content": "c"} for role in ("model", "teacher")}
    (directory / MANIFEST).write_bytes(text_of(manifest() | {"inputs": inputs}))
    assert len(list(lineage(directory, tmp_path))) == 3
    assert not descends_from(directory, "grow")


TOKENS: dict[str, Any] = {
    "version": 1, "dtype": "uint16", "tokenizer": "0" * 64, "vocabulary": 9, "bos": None, "eos": 1,
    "splits": {"train": {"tokens": 4, "documents": 2, "shards": [
        {"name": "train-0", "tokens": 4, "documents": 2, "sha256": "0" * 64}]}},
}  # fmt: skip


@KEPT
@given(spoilt(TOKENS))
def test_an_index_of_tokens_from_elsewhere(tmp_path: Path, content: Any) -> None:
    (tmp_path / "train-0.tokens").write_bytes(bytes(8))
    starts = b"".join(place.to_bytes(8, "little") for place in (0, 2, 4))
    (tmp_path / "train-0.starts").write_bytes(starts)
    (tmp_path / INDEX).write_bytes(text_of(content))
    with one_sentence():
        data = TokenData(tmp_path)
        for split in data.splits:
            assert sum(map(len, data.documents(split))) == data.counts(split)[0]
            data.windows(split, 2)


READING = {"split": "train", "rule": "stream", "join": " ", "documents": 5, "windows": None}
TEXT = {"name": "t", "source": "", "revision": "", "calibration": READING, "perplexity": READING}


@KEPT
@given(spoilt(TEXT))
def test_a_description_of_a_text_from_elsewhere(tmp_path: Path, content: Any) -> None:
    (tmp_path / DESCRIPTION).write_bytes(text_of(content))
    with one_sentence():
        found = Description.read(tmp_path)
        assert isinstance(found.calibration.join, str)
        assert (found.calibration.documents or 1) >= 1
