"""A model to Sheared-LLaMA's Composer model and back, as a user converts it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.contract.manifest import read_manifest
from tests.contract.command import espalier, refused
from tests.tiny import tiny_llama
from tests.tiny_pruned import PADDED, tiny_padded
from tests.unit.tiny_checkpoints import load_all

pytestmark = [pytest.mark.sheared_llama, pytest.mark.slow, pytest.mark.timeout(600)]


def made(store: Path, *words: str) -> Path:
    done = espalier(store, *words)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return Path(done.stdout.splitlines()[-1])


def returns_bit_by_bit(store: Path, model: Path) -> tuple[Any, Any]:
    """Both manifests, once every tensor has come back as it was."""
    there = made(store, "hf2composer", f"CKPT={model}", "NAME=there")
    assert there == store / "composer" / "there"
    back = made(store, "composer2hf", "CKPT=there")
    assert back == store / "checkpoints" / "there-composer2hf"
    before, after = load_all(model), load_all(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    manifests = (read_manifest(there), read_manifest(back))
    for manifest in manifests:
        assert manifest.checks["logits_max_difference"] < 1e-3
        assert manifest.checks["logits_max_kl"] < 1e-5
        assert [entry.kind for entry in manifest.ledger] == ["pretraining"]  # converting costs none
    assert manifests[0].checks["weights_equal"]
    return manifests


def test_grouped_queries_are_carried_and_said(tmp_path: Path) -> None:
    manifest, _ = returns_bit_by_bit(tmp_path / "store", tiny_llama(tmp_path / "model"))
    assert "share keys and values" in manifest.notes["grouped_queries"]


@pytest.mark.shared
def test_a_trained_model_comes_back(tmp_path: Path, shared: Path) -> None:
    returns_bit_by_bit(tmp_path / "store", shared / "models" / "stories260k")


def test_a_padded_model_goes_there_and_back_as_one(tmp_path: Path) -> None:
    for manifest in returns_bit_by_bit(tmp_path / "store", tiny_padded(tmp_path / "padded")):
        assert manifest.pruning == PADDED


def test_a_file_needs_a_model_for_what_it_does_not_say(tmp_path: Path) -> None:
    model, store = tiny_llama(tmp_path / "model", num_key_value_heads=4), tmp_path / "store"
    there = made(store, "hf2composer", f"CKPT={model}")
    assert "grouped_queries" not in read_manifest(there).notes
    file = tmp_path / "pruned-latest.pt"
    file.write_bytes((there / "state_dict.pt").read_bytes())
    refused(espalier(store, "composer2hf", f"CKPT={file}"), 2, "give MODEL=<a model>")
    back = made(store, "composer2hf", f"CKPT={file}", f"MODEL={model}")
    assert back.name == "pruned-latest-composer2hf"
    assert (back / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    model, store = tiny_llama(tmp_path / "model"), tmp_path / "store"
    refused(espalier(store, "composer2hf", "CKPT=nothing"), 2, "make hf2composer")
    file = tmp_path / "state.pt"
    torch.save({"model.l0_module.masks.hidden.z_loga": torch.ones(2)}, file)
    words = (f"CKPT={file}", f"MODEL={model}", "NAME=back")
    refused(espalier(store, "composer2hf", *words), 2, "extract the pruned model first")
    assert not (store / "checkpoints" / "back").exists()
    biased = tiny_llama(tmp_path / "biased", attention_bias=True)
    refused(espalier(store, "hf2composer", f"CKPT={biased}"), 2, "BIAS=0")
