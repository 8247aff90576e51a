"""The paper's first results in small, on sapling: what pruning and a teacher are worth."""

from pathlib import Path

import pytest

from tests.contract.command import espalier
from tests.fsdp.tiny_runs import train
from tests.sapling import with_sapling

pytestmark = [pytest.mark.fsdp, pytest.mark.slow, pytest.mark.xdist_group("arms")]

EQUAL = {
    "tokens": 40 * 1024, "batch": 4, "seqlen": 256, "lr": 2e-3, "valid_tokens": 8192,
    "valid_every": 40,
}  # fmt: skip
"""The same tokens, order and rate for every arm."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sapling, its token data, and sapling without two of its five layers."""
    store = with_sapling(tmp_path_factory.mktemp("store"))
    for words in (
        ("data", "DATA=pydoc-sapling"),
        ("prune-shortgpt", "LAYERS=3", "SUITE=none", "NAME=pruned"),
    ):
        done = espalier(store, *words)
        assert done.returncode == 0, done.stderr
    return store


@pytest.fixture(scope="module")
def losses(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Validation losses of three arms after equal tokens."""
    pruned, folder = store / "checkpoints" / "pruned", tmp_path_factory.mktemp("arms")
    inputs = {"model": pruned, "data": store / "data" / "pydoc-sapling"}
    taught = {**inputs, "teacher": store / "models" / "sapling"}
    arms = {
        "retrained": train(folder / "retrained", inputs, **EQUAL),
        "scratch": train(folder / "scratch", inputs, **EQUAL, init="random"),
        "distilled": train(folder / "distilled", taught, **EQUAL),
    }
    return {name: run.found["valid"][-1][1] for name, run in arms.items()}


def test_a_pruned_start_beats_a_random_one_at_equal_tokens(losses: dict[str, float]) -> None:
    print(losses)
    assert losses["retrained"] < losses["scratch"] - 0.3


def test_a_teacher_beats_the_data_alone_at_equal_tokens(losses: dict[str, float]) -> None:
    print(losses)
    assert losses["distilled"] < losses["retrained"]
