"""SliceGPT as a user runs it, with the packages of its own image."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from espalier.contract.manifest import read_manifest
from espalier.contract.pruned import Foreign, Uniform
from tests.contract.command import differing, espalier, refused, tree, without_times
from tests.tiny import tiny_llama, token_rows

pytestmark = pytest.mark.minitron

PICTURES = {"spectra.png", "spectra.svg"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("parent") / "tiny", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_rows(tmp_path_factory.mktemp("tokens") / "tokens.safetensors")


def sliced(store: Path, model: Path, tokens: Path, *words: str, cold: bool = False) -> Path:
    given = (f"MODEL={model}", f"CALIBRATION={tokens}", "SUITE=none", *words)
    done = espalier(store, "prune-slicegpt", *given, cold=cold)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def scores_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "scores.json").read_text())
    return found


def test_another_basis_at_every_block(tmp_path: Path, model: Path, tokens: Path) -> None:
    checkpoint = sliced(tmp_path, model, tokens)
    assert checkpoint == tmp_path / "checkpoints" / "tiny-slicegpt-0.25"
    manifest, scores = read_manifest(checkpoint), scores_of(checkpoint)
    account = manifest.pruning
    assert isinstance(account, Foreign)
    assert (account.form, account.image) == ("espalier-sliced", "eval")
    assert account.facts["channels"] == 24
    assert account.facts["before"]["hidden"] == 32
    assert manifest.model is not None
    assert manifest.model["model_type"] == "espalier-sliced"
    assert manifest.checks["probe_loss"] > 0
    assert manifest.data is not None
    assert (manifest.data["tokens"], manifest.seed) == (512, 0)
    assert scores["sites"][:3] == ["embeddings", "0.before_mlp", "0.output"]
    assert len(scores["sites"]) == len(scores["eigenvalues"]) == len(scores["discarded"]) == 7
    assert all(len(values) == 32 for values in scores["eigenvalues"])
    assert {path.name for path in checkpoint.glob("spectra.*")} == PICTURES


def test_one_basis_for_all(tmp_path: Path, model: Path, tokens: Path) -> None:
    checkpoint = sliced(tmp_path, model, tokens, "SHARED=1", "SPARSITY=0.5")
    assert checkpoint.name == "tiny-slicegpt-shared-0.5"
    account = read_manifest(checkpoint).pruning
    assert isinstance(account, Uniform)
    assert (account.after.hidden, account.rotated, account.structure) == (16, True, "width")
    assert account.kept.hidden is None
    assert scores_of(checkpoint)["sites"] == ["all"]
    assert {path.name for path in checkpoint.glob("spectra.*")} == PICTURES
    stock = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert (stock.config.hidden_size, stock.config.num_attention_heads) == (16, 4)
    assert stock.config.rms_norm_eps == pytest.approx(2e-6)  # of 1e-6


def test_equal_runs_have_equal_bytes(tmp_path: Path, model: Path, tokens: Path) -> None:
    words = ("ORIENTATION=random", "SEED=3")
    one = sliced(tmp_path / "a", model, tokens, *words)
    other = sliced(tmp_path / "b", model, tokens, *words, cold=True)
    assert one.name == "tiny-slicegpt-random-0.25"
    files = [without_times(tree(directory)) for directory in (one, other)]
    assert not differing(*files)
    assert read_manifest(one).seed == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("SPARSITY=0.9",), "leaves 3 of 32 channels, less than ROUND=8"),
        (("ROUND=5",), "ROUND=5 does not divide the model's 32 channels"),
        (("SAMPLES=1", "SEQLEN=20"), "has 20 tokens, which span no more directions"),
        (("SHARED=1", "REFERENCE=1"), "the reference implementation has no shared basis"),
        (("ORIENTATION=haar",), "ORIENTATION=haar"),
        (("PATTERN=2:4",), "PATTERN is not a parameter here"),
    ],
    ids=["sparsity", "round", "tokens", "reference", "orientation", "pattern"],
)
def test_bad_input(
    tmp_path: Path, model: Path, tokens: Path, words: tuple[str, ...], says: str
) -> None:
    given = (f"MODEL={model}", f"CALIBRATION={tokens}", "SUITE=none", *words)
    refused(espalier(tmp_path, "prune-slicegpt", *given), 2, says)
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_a_sliced_model_is_not_sliced_again(tmp_path: Path, model: Path, tokens: Path) -> None:
    checkpoint = sliced(tmp_path, model, tokens)
    done = espalier(tmp_path, "prune-slicegpt", f"MODEL={checkpoint.name}", "SUITE=none")
    refused(done, 2, "another basis of the residual stream at every block, which slicegpt cannot")
