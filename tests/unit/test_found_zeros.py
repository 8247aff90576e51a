"""Zeros that a checkpoint has, known by its content: how many, and in which pattern."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.contract.pattern import Pattern
from espalier.errors import InputError
from espalier.models.found_zeros import FoundZeros, _least_zeros, found_masked
from tests.unit.tiny_checkpoints import load_all, make_checkpoint, rewrite

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}


def masked_by(model: Path, zeroed: int, group: int) -> None:
    """N of every M inputs of each layer's matrix become zero, by magnitude."""
    changes = {}
    for name, weight in load_all(model).items():
        if ".layers." in name and weight.ndim == 2:
            groups = weight.abs().reshape(-1, group)
            low = groups.argsort(1)[:, :zeroed]
            mask = torch.ones_like(groups).scatter_(1, low, 0).reshape(weight.shape)
            changes[name.replace(".", "__")] = weight * mask
    rewrite(model, **changes)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "model", **SHAPE)
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "1:2", "3:4", "5:8", "7:16"])
def test_patterns_are_found(tmp_path: Path, pattern: str, dtype: torch.dtype) -> None:
    wanted = Pattern.parse(pattern)
    make_checkpoint(tmp_path / "m", dtype=dtype, **SHAPE)
    masked_by(tmp_path / "m", wanted.zeroed, wanted.group)
    found = FoundZeros.of(tmp_path / "m")
    assert found.pruned
    assert found.pattern == wanted
    assert found.share == pytest.approx(wanted.sparsity, abs=1e-4)
    account = found_masked(tmp_path / "m", wanted)
    assert (account.pattern, account.achieved) == (pattern, found.share)


def test_a_dense_model_has_none(model: Path) -> None:
    found = FoundZeros.of(model)
    assert (found.share, found.pruned, found.pattern) == (0, False, Pattern())


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9])
def test_unstructured_zeros_are_counted(model: Path, share: float) -> None:
    generator = torch.Generator().manual_seed(3)
    zeros = total = 0
    changes = {}
    for name, weight in load_all(model).items():
        if ".layers." in name and weight.ndim == 2:
            kept = torch.rand(weight.shape, generator=generator) >= share
            changes[name.replace(".", "__")] = torch.where(kept, weight, torch.tensor(-0.0))
            zeros, total = zeros + int((~kept).sum()), total + kept.numel()
    rewrite(model, **changes)
    found = FoundZeros.of(model)
    assert found.share == zeros / total
    assert found.pruned
    assert found.pattern == Pattern()


def test_a_few_zeros_are_accidents(model: Path) -> None:
    """A dead neuron, and a few entries here and there."""
    name = "model.layers.0.mlp.down_proj.weight"
    weight = load_all(model)[name]
    weight[:, 5] = 0
    weight[3, ::9] = 0
    rewrite(model, **{name.replace(".", "__"): weight})
    found = FoundZeros.of(model)
    assert 0.0005 < found.share < 0.01
    assert not found.pruned
    with pytest.raises(InputError, match="too few for a pruned model; leave PATTERN out"):
        found_masked(model, Pattern())


def test_layers_that_were_added_to_be_trained_are_no_pruning(model: Path) -> None:
    """As LLaMA-Pro adds them: two of their matrices are zero throughout."""
    names = [f"model.layers.1.{part}.weight" for part in ("self_attn.o_proj", "mlp.down_proj")]
    weights = load_all(model)
    rewrite(model, **{name.replace(".", "__"): weights[name] * 0 for name in names})
    found = FoundZeros.of(model)
    assert found.share > 0.1
    assert sorted(found.empty) == sorted(names)
    assert not found.pruned


def test_two_of_four_with_more_zeros_beside_is_still_that(model: Path) -> None:
    masked_by(model, 2, 4)
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(model, **{name.replace(".", "__"): load_all(model)[name] * 0})
    found = FoundZeros.of(model)
    assert found.pattern == Pattern(2, 4)
    assert found.share > 0.55


def test_a_pattern_that_does_not_hold_is_refused(model: Path) -> None:
    masked_by(model, 2, 4)
    name = "model.layers.1.self_attn.q_proj.weight"
    weight = load_all(model)[name]
    weight[7, 4:8] = torch.tensor([0.0, 1.0, 1.0, 1.0])
    rewrite(model, **{name.replace(".", "__"): weight})
    with pytest.raises(InputError, match=rf"{name} has groups .* give PATTERN=unstructured: 4"):
        found_masked(model, Pattern(2, 4))
    assert found_masked(model, Pattern()).pattern == "unstructured"


def test_what_a_manifest_has_counted_is_not_read(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.manifests import mark_pruned

    mark_pruned(model, None)
    content = json.loads((model / "manifest.json").read_text())
    content["checks"] = {"sparsity": 1e-5}
    (model / "manifest.json").write_text(json.dumps(content))
    monkeypatch.setattr("espalier.models.found_zeros.locate", None)
    assert FoundZeros.of(model).share == 1e-5


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(1, 20), st.sampled_from([2, 4, 8]), st.integers(0, 2**32))
def test_the_fewest_zeros_of_any_group(rows: int, columns: int, group: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    zero = (torch.rand(rows, columns, generator=generator) < 0.5).numpy()
    whole = columns // group
    counts = [
        sum(zero[row, place * group : (place + 1) * group])
        for row, place in itertools.product(range(rows), range(whole))
    ]
    assert _least_zeros(zero, group) == min(counts, default=group)
