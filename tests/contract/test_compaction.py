"""`make compact` and `make pad`, as a user gives them."""

import json
from pathlib import Path

import pytest

from espalier.contract.manifest import read_manifest
from tests.contract.command import espalier, refused, tree
from tests.tiny import tiny_llama
from tests.tiny_pruned import tiny_padded


def test_there_evaluated_and_back(tmp_path: Path) -> None:
    store, model = tmp_path / "store", tiny_padded(tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    made = espalier(store, "compact", f"CKPT={model}", "NAME=small", "SEQLEN=16")
    assert made.returncode == 0, made.stderr
    manifest = read_manifest(store / "checkpoints" / "small")
    sizes = manifest.notes["sizes"]
    assert sizes["compact"]["parameters"] < sizes["padded"]["parameters"]
    assert sizes["compact"]["macs"] < sizes["padded"]["macs"]
    assert {*manifest.notes["milliseconds"]} == {"padded", "compact"}
    assert f"{sizes['compact']['parameters']:,} parameters" in made.stderr
    measured = {}
    for name in (str(model), "small"):
        words = ("SUITE=perplexity", f"DATA={text}", "SEQLEN=16", "LIMIT=4")
        done = espalier(store, "eval", f"CKPT={name}", *words, "NAME=text")
        assert done.returncode == 0, done.stderr
        results = json.loads((Path(done.stdout.splitlines()[-1]) / "results.json").read_text())
        measured[name] = next(iter(results["results"].values()))["ppl,none"]
    assert measured["small"] == pytest.approx(measured[str(model)], rel=1e-5)
    refused(espalier(store, "prune-magnitude", "MODEL=small"), 2, "use image eval")
    back = espalier(store, "pad", "CKPT=small", "NAME=back")
    assert back.returncode == 0, back.stderr
    files = tree(store / "checkpoints" / "back"), tree(model)
    assert files[0]["config.json"] == files[1]["config.json"]
    assert read_manifest(store / "checkpoints" / "back").pruning == read_manifest(model).pruning


def test_what_is_not_padded_is_refused(tmp_path: Path) -> None:
    done = espalier(tmp_path / "store", "compact", f"CKPT={tiny_llama(tmp_path / 'model')}")
    refused(done, 2, "model is not padded")
    assert not (tmp_path / "store" / "checkpoints").exists() or not any(
        (tmp_path / "store" / "checkpoints").iterdir()
    )
