"""Parents that have zeros of their own: pruned without a fault, and every one of them stays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from espalier.contract.pattern import Pattern
from espalier.contract.pruned import Masked
from espalier.errors import InputError
from espalier.models.gates import check_checkpoint
from espalier.pruning.masked.stream import PruningJob, prune_checkpoint
from methods.magnitude.algorithm import Magnitude
from methods.sparsegpt.algorithm import SparseGPT, prune_columns
from methods.wanda.algorithm import Wanda
from tests.unit.tiny_checkpoints import load_all, make_checkpoint, make_context, make_ids, rewrite

FREE, WIDTH = Pattern(), 24
METHODS = [Magnitude, Wanda, SparseGPT]
PATTERNS = [FREE, Pattern(2, 4), Pattern(4, 8), Pattern(1, 3), Pattern(2, 7)]


def scattered(weight: Tensor, generator: torch.Generator) -> None:
    weight[torch.rand(weight.shape, generator=generator) < 0.6] = 0


def pruned_before(weight: Tensor, generator: torch.Generator) -> None:
    weight.scatter_(1, weight.abs().argsort(dim=1)[:, : int(0.6 * weight.shape[1])], 0)


def ternary(weight: Tensor, generator: torch.Generator) -> None:
    scale = weight.abs().mean()
    weight.copy_((weight / scale).round().clamp(-1, 1) * scale)


def one_value(weight: Tensor, generator: torch.Generator) -> None:
    weight.copy_(weight.sign() * 0.25)


def zero_rows(weight: Tensor, generator: torch.Generator) -> None:
    weight[weight.shape[0] // 3 :] = 0


def zero_columns(weight: Tensor, generator: torch.Generator) -> None:
    weight[:, weight.shape[1] // 3 :] = 0


def all_zero(weight: Tensor, generator: torch.Generator) -> None:
    weight.zero_()


def one_left(weight: Tensor, generator: torch.Generator) -> None:
    weight[1:] = 0
    weight[0, 1:] = 0


def dense(weight: Tensor, generator: torch.Generator) -> None:
    """Nothing is zero."""


KINDS = [
    dense, scattered, pruned_before, ternary, one_value, zero_rows, zero_columns, all_zero, one_left
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("method", METHODS)
@given(
    seed=st.integers(0, 999),
    kind=st.sampled_from(KINDS),
    rows=st.integers(2, 9),
    columns=st.integers(7, WIDTH),
    sparsity=st.floats(0.05, 0.95),
    dead=st.integers(0, 6),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_of_a_matrix_goes_what_the_mask_takes_and_the_zeros_stay(  # noqa: PLR0917
    method: Any,
    pattern: Pattern,
    seed: int,
    kind: Callable[..., None],
    rows: int,
    columns: int,
    sparsity: float,
    dead: int,
    dtype: str,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    kind(weight, generator)
    weight = weight.to(getattr(torch, dtype))
    parent, pruner = weight.clone(), method(pattern)
    inputs = torch.randn(3, 40, columns, generator=generator)
    inputs[..., :dead] = 0
    statistic = pruner.statistic(columns, "cpu")
    statistic.add(inputs)
    facts = pruner.prune({"w": weight}, statistic, sparsity)

    zero, own = weight == 0, parent == 0
    assert bool(torch.isfinite(weight).all())
    assert not (own & ~zero).any()
    attainable = pruner.attainable(rows, columns, sparsity)
    assert int(zero.sum()) >= max(attainable, int(own.sum()))
    beyond = {Magnitude: 1, Wanda: 0, SparseGPT: 1}[method] if pattern == FREE else 0
    dropped = rows * facts.get("dead_inputs", 0)
    assert int(zero.sum()) <= attainable + int(own.sum()) + dropped + beyond
    if pattern != FREE:
        for first in range(0, columns, pattern.group):
            group = zero[:, first : first + pattern.group]
            assert int(group.sum(dim=1).min()) >= min(pattern.zeroed, group.shape[1])
    if method is not SparseGPT:
        assert torch.equal(weight[~zero], parent[~zero])


def test_rows_without_zeros_are_pruned_as_if_no_other_had_any() -> None:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(4, 30, 24, generator=generator)
    rows = torch.randn(6, 24, generator=generator)
    alone, beside = rows.clone(), torch.cat([rows, torch.zeros(6, 24)])
    for weight in (alone, beside):
        method = SparseGPT(Pattern(2, 4))
        statistic = method.statistic(24, "cpu")
        statistic.add(inputs)
        method.prune({"w": weight}, statistic, 0.5)
    torch.testing.assert_close(beside[:6], alone, atol=1e-6, rtol=1e-6)
    assert not beside[6:].any()


def test_no_zeros_are_the_same_as_none_asked_about() -> None:
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(40, 9, generator=generator)
    factor = torch.eye(40) + 0.1 * torch.randn(40, 40, generator=generator).triu(1)
    for pattern in (FREE, Pattern(2, 4)):
        one, other = weight.clone(), weight.clone()
        prune_columns(one, factor, 0.5, pattern, 16)
        nothing = torch.zeros_like(weight, dtype=torch.bool)
        prune_columns(other, factor, 0.5, pattern, 16, zeros=nothing)
        assert torch.equal(one, other)


def identity_block(weights: dict[str, Tensor]) -> None:
    """As models that were grown by layers of no effect."""
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        weights[f"model.layers.1.{name}.weight"].zero_()


def padded_neurons(weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        if "gate_proj" in name or "up_proj" in name:
            weight[-16:] = 0
        if "down_proj" in name:
            weight[:, -16:] = 0


def dead_neurons(weights: dict[str, Tensor]) -> None:
    """The down projection still has weights for what is always zero."""
    for name, weight in weights.items():
        if "up_proj" in name:
            weight[-16:] = 0


def dead_attention(weights: dict[str, Tensor]) -> None:
    weights["model.layers.0.self_attn.v_proj.weight"].zero_()


def everywhere(change: Callable[..., None]) -> Callable[[dict[str, Tensor]], None]:
    def changed(weights: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(4)
        for name, weight in weights.items():
            if name.endswith("_proj.weight"):
                change(weight, generator)

    changed.__name__ = change.__name__
    return changed


PARENTS = [
    identity_block, padded_neurons, dead_neurons, dead_attention,
    *map(everywhere, (pruned_before, scattered, ternary, one_value)),
]  # fmt: skip


@pytest.mark.parametrize("pattern", [FREE, Pattern(2, 4), Pattern(4, 8)], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parent", PARENTS, ids=lambda parent: str(parent.__name__))
def test_such_parents_pass_the_gates(
    tmp_path: Path, parent: Callable[..., None], method: Any, pattern: Pattern
) -> None:
    # Of this width a weight more in a block does not come near the gate's half a point.
    make_checkpoint(tmp_path / "m", num_hidden_layers=3, hidden_size=64, intermediate_size=96)
    weights = load_all(tmp_path / "m")
    parent(weights)
    rewrite(tmp_path / "m", **{name.replace(".", "__"): w for name, w in weights.items()})
    context = make_context(tmp_path / "m", tmp_path / "o")
    record = prune_checkpoint(context, PruningJob(method(pattern), pattern, 0.5, make_ids()))
    check_checkpoint(tmp_path / "o", pruning=record)

    matrices = {name: w for name, w in weights.items() if name.endswith("_proj.weight")}
    result, total = load_all(tmp_path / "o"), sum(w.numel() for w in matrices.values())
    own = {name: weight == 0 for name, weight in matrices.items()}
    assert not any((own[name] & (result[name] != 0)).any() for name in own)
    assert record.inherited == sum(int(zeros.sum()) for zeros in own.values()) / total
    assert record.inherited == sum(layer.inherited for layer in record.layers) / total
    assert record.achieved == sum(int((result[name] == 0).sum()) for name in own) / total
    least = sum(max(w.numel() // 2, int(own[name].sum())) for name, w in matrices.items())
    assert record.attainable == least / total
    assert ("in the parent" in str(record)) is bool(record.inherited)


def test_what_is_sparse_already_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_checkpoint(tmp_path / "m")
    for output, said in (("a", False), ("b", True)):
        model = tmp_path / ("m" if output == "a" else "a")
        context = make_context(model, tmp_path / output)
        prune_checkpoint(context, PruningJob(Wanda(FREE), FREE, 0.5, make_ids()))
        assert ("nothing was removed: 0.5000 of the weights" in capsys.readouterr().err) is said


def account(achieved: float, **more: Any) -> Masked:
    return Masked(pattern="unstructured", target=0.5, achieved=achieved, **more)


def test_zeros_that_nothing_explains_are_still_a_fault(tmp_path: Path) -> None:
    """Too few in any case, too many where neither the parent had them nor inputs are dead."""
    make_checkpoint(tmp_path)
    weights = load_all(tmp_path)
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            weight[: int(0.8 * len(weight))] = 0
    rewrite(tmp_path, **{name.replace(".", "__"): w for name, w in weights.items()})
    for record in (account(0.8), account(0.8, inherited=0.2), account(0.8, attainable=0.9)):
        with pytest.raises(InputError, match=r"is 0\.78.. sparse but the target was 0\.[59]"):
            check_checkpoint(tmp_path, pruning=record)
    for record in (account(0.8, inherited=0.3), account(0.8, inherited=0.1, dead=0.2)):
        check_checkpoint(tmp_path, pruning=record)
