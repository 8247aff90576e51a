"""A pruned sapling is better on held-out text after a recovery, with every zero kept."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from espalier.contract.manifest import read_manifest
from espalier.models.tokenizer import load_tokenizer
from tests.contract.command import espalier
from tests.sapling import with_sapling
from tests.unit.tiny_checkpoints import load_all

pytestmark = [pytest.mark.fsdp, pytest.mark.slow, pytest.mark.xdist_group("arms")]

WORDS = ("DATA=pydoc", "BATCH=8", "SEQLEN=256", "TOKENS=80K", "LR=3e-3", "VALID=16", "DROPOUT=0")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sapling, its text, and sapling pruned by a pattern and without two of its five layers."""
    store = with_sapling(tmp_path_factory.mktemp("store"))
    for words in (
        ("prune-magnitude", "PATTERN=2:4", "NAME=sparse"),
        ("prune-magnitude", "SPARSITY=0.5", "NAME=half"),
        ("prune-shortgpt", "LAYERS=3", "NAME=shallow"),
    ):
        done = espalier(store, *words, "SUITE=none")
        assert done.returncode == 0, done.stderr
    return store


def loss_of(store: Path, model: Path) -> float:
    """Nats a token of the first windows of the text that nothing was trained on."""
    lines = (store / "data" / "pydoc" / "test.jsonl").read_text().splitlines()
    text = "\n\n".join(json.loads(line)["text"] for line in lines)
    ids = load_tokenizer(model)(text[:200_000], add_special_tokens=False)["input_ids"]
    windows = torch.tensor(ids[: 24 * 256]).reshape(24, 256)
    stock = AutoModelForCausalLM.from_pretrained(model).eval()
    with torch.no_grad():
        logits = stock(windows).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()


@pytest.mark.parametrize("pruned", ["sparse", "half", "shallow"])
def test_held_out_text_is_better_known_again(store: Path, pruned: str) -> None:
    done = espalier(store, "recover", f"CKPT={pruned}", *WORDS, f"NAME={pruned}-again")
    assert done.returncode == 0, done.stderr
    before, after = store / "checkpoints" / pruned, store / "checkpoints" / f"{pruned}-again"
    losses = [loss_of(store, model) for model in (store / "models" / "sapling", before, after)]
    print(pruned, losses)
    parent, lost, recovered = losses
    assert recovered < lost - 0.25 * (lost - parent)
    kept = load_all(after)
    for name, weight in load_all(before).items():
        assert torch.equal(kept[name] == 0, weight == 0), name
    manifests = [read_manifest(model) for model in (before, after)]
    assert manifests[1].pruning == manifests[0].pruning
    assert manifests[1].ledger[:-1] == manifests[0].ledger
    assert manifests[1].ledger[-1].flops
