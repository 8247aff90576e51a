"""Padding is no weights: it stays exactly zero in training, whatever POLICY says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.contract.manifest import read_manifest
from espalier.models.gates import check_checkpoint
from tests.contract.command import espalier
from tests.fsdp.tiny_runs import job_of, train
from tests.tiny_pruned import PADDED, padding_by_hand, tiny_padded
from tests.unit.tiny_checkpoints import load_all, rewrite
from training.protocol.account import pruning_section, training_section

pytestmark = pytest.mark.fsdp


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_padded(tmp_path_factory.mktemp("padded") / "tiny", attention_bias=True)


@pytest.mark.parametrize(
    "how",
    [{}, {"policy": "densify"}, {"init": "random"}, {"optimizer": "muon", "policy": "densify"}],
)
def test_padding_stays_zero(
    tmp_path: Path, inputs: dict[str, Path], padded: Path, how: dict[str, Any]
) -> None:
    run = train(tmp_path / "run", {**inputs, "model": padded}, tokens=6 * 64, **how)
    before, padding = load_all(padded), padding_by_hand()
    for name, weight in run.weights.items():
        where = padding.get(name, torch.zeros_like(weight, dtype=torch.bool))
        assert torch.count_nonzero(weight[where]) == 0, name
        if weight.ndim == 2 and ".layers." in name:  # all else is trained, also beside padding
            assert (weight[~where] != before[name][~where]).float().mean() > 0.9, name
    check_checkpoint(run.output, pruning=PADDED)


def test_a_weight_that_is_zero_and_no_padding_is_trained(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    """Padding is told by its place: not wherever the checkpoint happens to be zero."""
    model = tiny_padded(tmp_path / "tiny")
    name = "model.layers.1.mlp.down_proj.weight"
    down = load_all(model)[name]
    down[:, 10] = 0  # a neuron that is one
    rewrite(model, **{name.replace(".", "__"): down})
    run = train(tmp_path / "run", {**inputs, "model": model}, tokens=2 * 64)
    assert torch.count_nonzero(run.weights[name][:, 10]) == 32
    assert torch.count_nonzero(run.weights[name][:, [3, 40]]) == 0


def test_what_the_manifest_says(inputs: dict[str, Path], padded: Path) -> None:
    job = job_of({**inputs, "model": padded}, tokens=64, policy="densify")
    assert len(job.notices) == 1
    assert pruning_section(job, lambda: 0.0) == PADDED
    found = {"loss": 1.0, "valid": [], "best": None}
    assert training_section(job, found)["policy"] == "preserve"
    assert job_of({**inputs, "model": padded}, tokens=64).notices == []


def test_as_a_user_trains_it(tmp_path: Path, data: Path, padded: Path) -> None:
    words = (f"CKPT={padded}", f"DATA={data}", "BATCH=4", "SEQLEN=16", "TOKENS=256", "NAME=on")
    done = espalier(tmp_path, "train-gpu", *words, "POLICY=densify", "TRACKER=none", "EPOCHS=9")
    assert done.returncode == 0, done.stderr
    assert "padding is none: it stays zero" in done.stderr
    assert read_manifest(tmp_path / "checkpoints" / "on").pruning == PADDED
    shown = espalier(tmp_path, "show", "CKPT=on").stdout
    assert "padded: 20.0% removed; true widths 2 to 4 of 4 heads, 1 to 2 of 2 kv_heads" in shown
    assert "of them padding" in shown
