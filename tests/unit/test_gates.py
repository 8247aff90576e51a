"""The gates let good checkpoints through and stop each kind of bad one."""

import json
from pathlib import Path

import pytest
import torch

from espalier.contract.pruned import Masked
from espalier.errors import InputError
from espalier.models.gates import check_checkpoint, check_parent, describe_model
from tests.unit.tiny_checkpoints import load_all, make_checkpoint, rewrite

UP = "model__layers__1__mlp__up_proj__weight"


def test_loss_is_the_stock_models(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path)
    ids = (torch.arange(16) * 7 % 96)[None]
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    checks = check_checkpoint(tmp_path)
    assert checks["probe_loss"] == pytest.approx(expected, abs=1e-3)
    check_parent(tmp_path)


def test_description(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path, tie_word_embeddings=True)
    up = load_all(tmp_path)["model.layers.1.mlp.up_proj.weight"]
    rewrite(tmp_path, **{UP: torch.zeros_like(up)})
    described = describe_model(tmp_path, tmp_path)
    parameters = sum(p.numel() for p in model.parameters())
    assert described["parameters"] == described["parent_parameters"] == parameters
    assert described["nonzero"] == parameters - up.numel()
    assert described["dtype"] == "float32"


@pytest.mark.parametrize("name", [UP, "model__embed_tokens__weight", "lm_head__weight"])
def test_nan_anywhere(tmp_path: Path, name: str) -> None:
    make_checkpoint(tmp_path)
    bad = load_all(tmp_path)[name.replace("__", ".")]
    bad[-1, -1] = float("nan")
    rewrite(tmp_path, **{name: bad})
    with pytest.raises(InputError, match="NaN"):
        check_checkpoint(tmp_path)


def test_broken_pattern(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"q_proj\.weight breaks the pattern 2:4"):
        check_checkpoint(tmp_path, pruning=Masked(pattern="2:4", target=0.5, achieved=0.5))


def test_sparsity_off_the_target(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"0\.0000 sparse but the target was 0\.5000"):
        check_checkpoint(tmp_path, pruning=Masked(pattern="unstructured", target=0.5, achieved=0.5))


def test_config_that_states_another_dtype(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="states bfloat16 and the weights are float32"):
        check_checkpoint(tmp_path)


def test_tokenizer_that_does_not_fit(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    vocabulary = {str(i): i for i in range(97)}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    for check in (check_parent, check_checkpoint):
        with pytest.raises(InputError, match="up to 96 and the embedding has 96 rows"):
            check(tmp_path)


def test_infinite_loss(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    rewrite(tmp_path, model__norm__weight=torch.full((32,), 3e38))
    with pytest.raises(InputError, match="loss of"):
        check_checkpoint(tmp_path)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        check_parent(tmp_path)
