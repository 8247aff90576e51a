"""LLM-Pruner as a user runs it, with the packages of its own image."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from espalier.contract.manifest import read_manifest
from espalier.contract.pruned import Padded, Uniform
from espalier.models.compact import load_compact
from tests.contract.command import (
    command,
    differing,
    espalier,
    quiet_environment,
    refused,
    tree,
    without_times,
)
from tests.tiny import tiny_llama, token_rows

pytestmark = pytest.mark.llm_pruner

IDS = torch.arange(2, 30)[None]  # [1, T]
FEW = ("SAMPLES=4", "SEQLEN=16")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("parent") / "tiny", initializer_range=0.2)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_rows(tmp_path_factory.mktemp("tokens") / "tokens.safetensors")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that scores are measured once."""
    return tmp_path_factory.mktemp("store")


def pruned(store: Path, model: Path, tokens: Path, *words: str) -> Path:
    given = (f"MODEL={model}", f"CALIBRATION={tokens}", "SUITE=none", *words)
    done = espalier(store, "prune-llm-pruner", *given)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def test_widths_of_layers_load_in_stock_transformers_and_compact(
    store: Path, model: Path, tokens: Path
) -> None:
    found = pruned(store, model, tokens, *FEW, "SPARSITY=0.5", "FIRST=1", "LAST=3")
    manifest = read_manifest(found)
    assert isinstance(manifest.pruning, Padded)
    widths = [(layer.kv_heads, layer.intermediate) for layer in manifest.pruning.layers]
    assert widths == [(2, 48), (1, 24), (1, 24)]
    stock = AutoModelForCausalLM.from_pretrained(found).eval()
    made = espalier(store, "compact", f"CKPT={found.name}", "SEQLEN=16", "NAME=narrow")
    assert made.returncode == 0, made.stderr
    narrow = load_compact(store / "checkpoints" / "narrow", torch.float32)
    with torch.no_grad():
        logits, expected = narrow(IDS).logits, stock(IDS).logits
    assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-5
    assert {path.stem for path in found.glob("*.png")} == {"widths", "importance"}
    scores = read_manifest(next((store / "scores").glob("*/llm-pruner-*")))
    assert scores.data
    assert (scores.data["samples"], scores.data["seqlen"]) == (4, 16)
    assert scores.notes["agreement_of_halves"].keys() == {"neurons", "heads"}


def test_other_ratios_and_modes_need_no_second_backward(
    store: Path, model: Path, tokens: Path
) -> None:
    pruned(store, model, tokens, *FEW, "SPARSITY=0.5", "FIRST=1", "LAST=3")
    before = tree(store / "scores")
    whole = pruned(store, model, tokens, *FEW, "SPARSITY=0.5", "TAYLOR=param_mix")
    assert isinstance(read_manifest(whole).pruning, Padded | Uniform)
    channels = pruned(store, model, tokens, *FEW, "MODE=channel")
    account = read_manifest(channels).pruning
    assert isinstance(account, Uniform)
    assert account.after.hidden == 24
    logits = AutoModelForCausalLM.from_pretrained(channels)(IDS).logits
    assert torch.isfinite(logits).all()
    assert tree(store / "scores") == before


@pytest.mark.parametrize("importance", ["l1", "l2", "random"])
def test_no_tokens_are_needed(store: Path, model: Path, importance: str, tmp_path: Path) -> None:
    words = (f"MODEL={model}", f"IMPORTANCE={importance}", "SPARSITY=0.4", "SUITE=none")
    seed = ("SEED=3",) if importance == "random" else ()
    done = espalier(store, "prune-llm-pruner", *words, *seed)
    assert done.returncode == 0, done.stderr
    first = tree(Path(done.stdout.splitlines()[-1]))
    again = espalier(tmp_path / "again", "prune-llm-pruner", *words, *seed)
    second = tree(Path(again.stdout.splitlines()[-1]))
    assert not differing(without_times(first), without_times(second))


def test_steps_go_from_one_to_the_next(store: Path, model: Path, tokens: Path) -> None:
    found = pruned(store, model, tokens, *FEW, "SPARSITY=0.5", "STEPS=2", "NAME=stepped")
    before = store / "checkpoints" / "stepped-step1of2"
    half, whole = read_manifest(before).pruning, read_manifest(found).pruning
    assert half is not None
    assert whole is not None
    assert half.achieved < whole.achieved
    once = read_manifest(pruned(store, model, tokens, *FEW, "SPARSITY=0.5", "NAME=once"))
    assert isinstance(whole, Padded | Uniform)
    assert isinstance(once.pruning, Padded | Uniform)
    assert whole.after == once.pruning.after


def test_layers_of_the_front_are_kept(store: Path, model: Path) -> None:
    words = (f"MODEL={model}", "MODE=layer", "LAYERS=2", "SUITE=none")
    done = espalier(store, "prune-llm-pruner", *words)
    assert done.returncode == 0, done.stderr
    account = read_manifest(Path(done.stdout.splitlines()[-1])).pruning
    assert isinstance(account, Uniform)
    assert account.dropped_layers == (2,)


def test_scoring_resumes_with_the_same_bytes(model: Path, tokens: Path, tmp_path: Path) -> None:
    """Stopped by SIGINT on the way back."""
    words = ("score-llm-pruner", f"MODEL={model}", f"CALIBRATION={tokens}", "SAMPLES=8")
    store, whole = tmp_path / "stopped", tmp_path / "whole"
    process = subprocess.Popen(
        command(store, *words),
        env=quiet_environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    while process.poll() is None and not list(store.rglob("backward/layer-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    done = espalier(store, *words)
    assert done.returncode == 0, done.stderr
    assert espalier(whole, *words).returncode == 0
    assert not differing(
        without_times(tree(store / "scores")), without_times(tree(whole / "scores"))
    )


def test_what_is_refused_leaves_nothing(model: Path, tokens: Path, tmp_path: Path) -> None:
    for words, sentence in (
        (("FIRST=2", "LAST=1"), "FIRST=2 is not before LAST=1"),
        (("SPARSITY=0.99",), "leaves a layer no key-value head"),
        (("IMPORTANCE=random",), "SEED"),
        (("SEQLEN=1",), "SEQLEN"),
        (("IMPORTANCE=l1", "SAMPLES=3"), "leave out SAMPLES"),
    ):
        given = (f"MODEL={model}", f"CALIBRATION={tokens}", *words)
        refused(espalier(tmp_path / "store", "prune-llm-pruner", *given), 2, sentence)
        assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_a_dtype_without_gradients(tokens: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_llama(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name].to(torch.int8)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    given = (f"MODEL={model}", f"CALIBRATION={tokens}", *FEW)
    done = espalier(tmp_path / "store", "prune-llm-pruner", *given)
    refused(done, 2, "float32, bfloat16 or float16 weights")


def test_sixteen_bits_are_measured_in_float32(tokens: Path, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", initializer_range=0.2)
    half = AutoModelForCausalLM.from_pretrained(model).to(torch.bfloat16)
    half.save_pretrained(model)
    found = pruned(tmp_path / "store", model, tokens, *FEW, "SPARSITY=0.5")
    scores = next((tmp_path / "store" / "scores").glob("*/llm-pruner-*"))
    assert json.loads((scores / "scores.json").read_text())["loss"] > 0
    assert AutoModelForCausalLM.from_pretrained(found).dtype == torch.bfloat16
