"""`make adopt` of what somebody else has prepared."""

import json
from pathlib import Path
from typing import Any

import pytest

from espalier.contract.pruned import Masked
from tests.contract.command import espalier, refused, tree
from tests.manifests import mark_pruned
from tests.tiny import tiny_llama

FORGED = "f" * 64


def forged(model: Path) -> None:
    """A manifest with a digest, a pruning, a ledger and checks that nobody has made."""
    mark_pruned(model, Masked(pattern="2:4", target=0.5, achieved=0.5))
    manifest = json.loads((model / "manifest.json").read_text())
    line = {"kind": "pretraining", "stage": "fetch", "name": "m", "tokens": 15, "flops": 1.0}
    claims = {"content": FORGED, "ledger": [line], "checks": {"stock_logits": {"of": "mine"}}}
    (model / "manifest.json").write_text(json.dumps(manifest | claims))


def adopted(store: Path, model: Path, name: str) -> dict[str, Any]:
    done = espalier(store, "adopt", f"FROM={model}", f"NAME={name}")
    assert done.returncode == 0, done.stderr
    assert ("is not taken over" in done.stderr) is (model / "manifest.json").is_file()
    found: dict[str, Any] = json.loads((store / "models" / name / "manifest.json").read_text())
    return found


def test_a_forged_manifest_decides_nothing(tmp_path: Path) -> None:
    store, plain = tmp_path / "store", tiny_llama(tmp_path / "plain" / "m")
    other = tiny_llama(tmp_path / "other" / "m")
    forged(other)
    one, two = adopted(store, plain, "one"), adopted(store, other, "two")
    for part in ("content", "recipe", "pruning", "ledger", "fingerprint"):
        told = [json.dumps(made[part]).replace(made["name"], "") for made in (one, two)]
        assert told[0] == told[1], part
    assert FORGED not in json.dumps(two)
    done = espalier(store, "prune-magnitude", f"MODEL={other}", "SUITE=none", "NAME=x")
    refused(done, 2, "manifest.json is not of the files beside it")


@pytest.mark.parametrize("manifest", [True, False])
def test_what_a_link_leads_to_stays_where_it_is(tmp_path: Path, manifest: bool) -> None:
    store, model = tmp_path / "store", tiny_llama(tmp_path / "m")
    secret = tmp_path / "secret"
    secret.write_bytes((model / "tokenizer.json").read_bytes())
    if manifest:
        forged(model)
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").symlink_to(secret)
    done = espalier(store, "adopt", f"FROM={model}", "NAME=m")
    refused(done, 2, "tokenizer.json is a link to", "which is not followed")
    for words in (
        ["prune-magnitude", f"MODEL={model}", "SUITE=none"],
        ["data", f"TOKENIZER={model}"],
    ):
        refused(espalier(store, *words), 2, "which is not followed")
    assert not [name for name in tree(store) if "tokenizer" in name]
