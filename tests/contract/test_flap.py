"""FLAP and Wanda-sp as a user runs them, with the packages of their image."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from espalier.contract.manifest import read_manifest
from espalier.contract.pruned import Padded, Uniform
from tests.contract.command import differing, espalier, refused, tree, without_times
from tests.tiny import SHAPE, tiny_llama, token_rows

pytestmark = pytest.mark.minitron

PICTURES = {f"{name}.{kind}" for name in ("unit_scores", "widths") for kind in ("png", "svg")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"num_attention_heads": 8, "num_key_value_heads": 4, "initializer_range": 0.3}
    return tiny_llama(tmp_path_factory.mktemp("parent") / "tiny", **shape)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_rows(tmp_path_factory.mktemp("tokens") / "tokens.safetensors")


def test_one_measurement_serves_every_metric_and_structure(
    tmp_path: Path, model: Path, tokens: Path
) -> None:
    words = (f"MODEL={model}", "SUITE=none")
    given = (f"CALIBRATION={tokens}", "SPARSITY=0.4", "SEED=3")
    done = espalier(tmp_path, "prune-flap", *words, *given)
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "checkpoints" / "tiny-flap-0.4"
    assert done.stdout.splitlines()[-1] == str(checkpoint)
    manifest, scores = read_manifest(checkpoint), tmp_path / "scores" / "tiny"
    assert isinstance(manifest.pruning, Padded)
    assert "padded: " in done.stderr
    assert manifest.inputs["scores"].name == "scores/tiny/flap-tokens-1024-seed3"
    (measured,) = scores.iterdir()
    of_scores = read_manifest(measured)
    assert of_scores.data is not None
    assert (of_scores.data["samples"], of_scores.data["seqlen"]) == (8, 64)  # as they are
    assert of_scores.seed == 3
    assert {path.name for path in checkpoint.iterdir()} >= PICTURES
    assert (measured / "fluctuation.png").read_bytes().startswith(b"\x89PNG")
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    assert loaded.config.attention_bias
    with torch.inference_mode():
        assert torch.isfinite(loaded(torch.arange(2, 30)[None]).logits).all()
    other = (*words, f"SCORES=tiny/{measured.name}", "STRUCTURE=ul-um", "METRIC=wifn", "BIAS=0")
    done = espalier(tmp_path, "prune-flap", *other)
    assert done.returncode == 0, done.stderr
    plain = read_manifest(tmp_path / "checkpoints" / "tiny-flap-wifn-ul-um-0.5-nobias")
    assert isinstance(plain.pruning, Uniform)
    assert (plain.pruning.after.kv_heads, plain.pruning.after.intermediate) == (2, 24)
    assert [path.name for path in scores.iterdir()] == [measured.name]


def test_wanda_sp(tmp_path: Path, model: Path, tokens: Path) -> None:
    made = []
    for store, batch in ((tmp_path / "a", "1"), (tmp_path / "b", "1")):
        words = (f"MODEL={model}", f"CALIBRATION={tokens}", "SUITE=none", f"BATCH={batch}")
        done = espalier(store, "prune-wanda-sp", *words, cold=store.name == "b")
        assert done.returncode == 0, done.stderr
        made.append(Path(done.stdout.splitlines()[-1]))
    assert made[0] == tmp_path / "a" / "checkpoints" / "tiny-wanda-sp-0.5"
    assert not differing(*(without_times(tree(place)) for place in made))
    manifest = read_manifest(made[0])
    assert isinstance(manifest.pruning, Uniform)
    assert (manifest.pruning.after.kv_heads, manifest.pruning.after.intermediate) == (2, 24)
    assert manifest.data is not None
    assert (manifest.data["samples"], manifest.seed) == (8, 0)
    assert {path.name for path in made[0].iterdir()} >= PICTURES
    scores = json.loads((made[0] / "scores.json").read_text())
    assert [len(layer) for layer in scores["heads"]] == [4, 4, 4]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("prune-flap", "STRUCTURE=al-mm"), "STRUCTURE=al-mm needs REMOVE_HEADS"),
        (("prune-flap", "REMOVE_HEADS=2"), "leave out REMOVE_HEADS=2"),
        (
            ("prune-flap", "STRUCTURE=al-mm", "REMOVE_HEADS=12"),
            "REMOVE_HEADS=12 leaves no head, where there are 12 key-value heads",
        ),
        (
            ("prune-flap", "STRUCTURE=ul-um", "SPARSITY=0.01"),
            "SPARSITY=0.01 of 4 key-value heads and of 48 neurons is less than one of either",
        ),
        (("prune-wanda-sp", "SPARSITY=0.01"), "nothing would be removed; give more"),
        (("score-flap", "SAMPLES=1"), "SAMPLES=1 should be greater than or equal to 2"),
    ],
)
def test_mistakes_are_told_before_any_work(
    tmp_path: Path, model: Path, tokens: Path, words: tuple[str, ...], says: str
) -> None:
    given = (f"MODEL={model}", f"CALIBRATION={tokens}")
    refused(espalier(tmp_path / "store", *words, *given), 2, says)
    assert not list((tmp_path / "store").glob("*/*/*"))


def test_one_sample_does_not_fluctuate(tmp_path: Path, model: Path) -> None:
    tokens = token_rows(tmp_path / "one.safetensors", rows=1)
    done = espalier(tmp_path / "store", "score-flap", f"MODEL={model}", f"CALIBRATION={tokens}")
    refused(done, 2, "one sample does not fluctuate")


def test_a_family_that_has_no_such_biases(tmp_path: Path, tokens: Path) -> None:
    model = tiny_llama(tmp_path / "tiny")
    MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)).save_pretrained(model)
    words = (f"MODEL={model}", f"CALIBRATION={tokens}", "SUITE=none", "SPARSITY=0.4")
    done = espalier(tmp_path / "store", "prune-flap", *words)
    refused(done, 2, "stock mistral models have no bias at o_proj and down_proj", "give BIAS=0")
    assert not list((tmp_path / "store").glob("scores/*/*"))
    done = espalier(tmp_path / "store", "prune-flap", *words, "BIAS=0")
    assert done.returncode == 0, done.stderr
