"""Dropout of a config.json is off in training, and said: a run is a function of SEED."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from espalier.models.shapes import read_config
from tests.fsdp.tiny_runs import job_of, train
from tests.tiny import tiny_llama
from training.gpu_fsdp.model import empty_model
from training.protocol.dropout import dropout_notice, stated_dropout, without_dropout

pytestmark = pytest.mark.fsdp


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"attention_dropout": 0.1}, {"attention_dropout": 0.1}),
        ({"hidden_dropout": 0.2, "attention_dropout": 0.0}, {"hidden_dropout": 0.2}),
        ({"resid_pdrop": 0.1, "embd_pdrop": 1}, {"resid_pdrop": 0.1, "embd_pdrop": 1}),
        ({"layerdrop": 0.5, "drop_path_rate": 0.3}, {"layerdrop": 0.5, "drop_path_rate": 0.3}),
        ({"attention_probs_dropout_prob": 0.1}, {"attention_probs_dropout_prob": 0.1}),
        ({"attention_dropout": None, "use_dropout": True, "hidden_size": 32}, {}),
    ],
)
def test_what_is_dropout(config: dict[str, Any], found: dict[str, float]) -> None:
    assert stated_dropout(config) == found
    assert stated_dropout(without_dropout(config)) == {}
    assert without_dropout(config).keys() == config.keys()
    assert (dropout_notice(config) is None) == (not found)


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs' model, of the same weights, whose config.json asks for dropout."""
    return tiny_llama(tmp_path_factory.mktemp("dropping") / "tiny", attention_dropout=0.3)


@pytest.mark.parametrize("how", [{}, {"micro_batch": 1}, {"recompute": True}])
def test_two_runs_are_equal(
    tmp_path: Path, inputs: dict[str, Path], dropping: Path, how: dict[str, Any]
) -> None:
    one = train(tmp_path / "one", {**inputs, "model": dropping}, tokens=5 * 64, **how)
    torch.manual_seed(77)
    other = train(tmp_path / "other", {**inputs, "model": dropping}, tokens=5 * 64, **how)
    plain = train(tmp_path / "plain", inputs, tokens=5 * 64, **how)
    assert one.losses == other.losses == plain.losses
    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name])
    assert read_config(one.output)["attention_dropout"] == 0.3  # what the parent says stays


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_no_module_of_any_family_drops(dropping: Path, family: str) -> None:
    model = empty_model({**read_config(dropping), "model_type": family, "hidden_dropout": 0.5})
    for module in model.modules():
        assert not getattr(module, "attention_dropout", 0)
        assert not isinstance(module, nn.Dropout) or module.p == 0


def test_it_is_said(inputs: dict[str, Path], dropping: Path) -> None:
    (line,) = job_of({**inputs, "model": dropping}, tokens=64).notices
    assert line.startswith("attention_dropout=0.3 of config.json is off")
    assert job_of(inputs, tokens=64).notices == []
