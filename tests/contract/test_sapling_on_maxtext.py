"""What MaxText makes of sapling: FSDP's losses, and its prunings' weights bit by bit."""

import json
from pathlib import Path

import pytest

from tests.contract.maxtext_stages import made, maxtext, returns_bit_by_bit
from tests.contract.test_train_tpu import metrics
from tests.sapling import with_sapling

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = 100
RUN = ("CKPT=sapling", "BATCH=8", "SEQLEN=128", f"TOKENS={STEPS * 8 * 128}", "EPOCHS=2")
PRUNINGS = {
    "depth": ("prune-shortgpt", "LAYERS=3"),
    "width": ("prune-minitron-width", "HIDDEN=96"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where sapling and its token data are."""
    maxtext()
    store = with_sapling(tmp_path_factory.mktemp("store"))
    made(store, "data", "DATA=pydoc-sapling")
    return store


def test_a_hundred_steps_track_the_other_trainer(store: Path) -> None:
    one = metrics(made(store, "train-tpu", *RUN, "NAME=maxtext"))
    other = metrics(made(store, "train-gpu", *RUN, "NAME=fsdp", "TRACKER=none"))
    assert len(one) == len(other) == STEPS
    assert one == pytest.approx(other, rel=1e-4)  # 2 % would do for a study


def test_a_pipeline_prunes_trains_and_evaluates(store: Path) -> None:
    words = ("pipeline", "METHOD=magnitude", "PATTERN=2:4", "NAME=pruned", "SUITE=quick")
    training = ("TRAIN=tpu", "TOKENS=10K", "TRAIN_BATCH=8", "TRAIN_SEQLEN=128", "TRAIN_NAME=both")
    trained = made(store, *words, *training)
    assert trained == store / "checkpoints" / "both"
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["inputs"]["model"]["name"] == "checkpoints/pruned"
    assert manifest["checks"]["pattern_exact"] == "2:4"
    perplexity = {}
    for name in ("pruned", "both"):
        told = json.loads((store / "evals" / name / "quick" / "results.json").read_text())
        [measured] = told["results"].values()
        perplexity[name] = measured["ppl,none"]
    assert perplexity["both"] < perplexity["pruned"]


@pytest.mark.parametrize("pruning", ["none", *PRUNINGS])
def test_weights_come_back_bit_by_bit(store: Path, pruning: str) -> None:
    model = store / "models" / "sapling"
    if pruning in PRUNINGS:
        words = (*PRUNINGS[pruning], "MODEL=sapling", "SUITE=none", f"NAME={pruning}")
        model = made(store, *words)
    checks = returns_bit_by_bit(store, model)
    assert checks["logits_max_difference"] < 1e-4
    if pruning == "width":
        config = json.loads((model / "config.json").read_text())
        heads = config["num_attention_heads"] * config["head_dim"]
        assert config["hidden_size"] == 96 != heads
