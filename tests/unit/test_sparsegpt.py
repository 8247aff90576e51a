"""SparseGPT against dense linear algebra."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.pattern import Pattern
from espalier.errors import InputError
from espalier.pruning import gram
from methods.sparsegpt import hessian as hessian_module
from methods.sparsegpt.algorithm import SparseGPT, prune_columns
from methods.sparsegpt.hessian import (
    Hessian,
    factorise_upper,
    inverse_factor,
    invert_upper,
    mirror_upper,
)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def positive(seed: int, size: int) -> torch.Tensor:
    x = random(seed, 3 * size, size)
    return x.T @ x / size


@pytest.fixture(autouse=True)
def small_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hessian_module, gram):
        monkeypatch.setattr(module, "PANEL", 8)
    monkeypatch.setattr(hessian_module, "SMALL", 4)


@given(st.integers(0, 99), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_hessian(seed: int, batches: list[int]) -> None:
    running = Hessian(21, "cpu")
    inputs = [random(seed + i, size, 5, 21) for i, size in enumerate(batches)]
    for batch in inputs:
        running.add(batch)
    mirror_upper(running.matrix)
    x = torch.cat(inputs).reshape(-1, 21)
    torch.testing.assert_close(running.matrix, 2 / sum(batches) * x.T @ x)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 37])
def test_factor_and_inverse(size: int) -> None:
    matrix = positive(5, size)
    factored = matrix.clone()
    assert factorise_upper(factored)
    upper = factored.triu()
    torch.testing.assert_close(upper @ upper.T, matrix, atol=1e-4, rtol=1e-4)
    assert torch.equal(factored.tril(-1), matrix.tril(-1))  # kept for another try
    invert_upper(upper)
    torch.testing.assert_close(upper, torch.linalg.inv(factored.triu()), atol=1e-4, rtol=1e-4)


def test_inverse_factor_is_the_upper_cholesky_of_the_inverse() -> None:
    matrix = positive(6, 21)
    damped = matrix + 0.01 * matrix.diagonal().mean() * torch.eye(21)
    expected = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    factor, damping = inverse_factor(matrix.clone(), 0.01, 1.0)
    assert damping == 0.01
    torch.testing.assert_close(factor.triu(), expected, atol=1e-4, rtol=1e-4)


def test_damping_grows_until_the_hessian_is_positive_definite() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.05]))
    factor, damping = inverse_factor(matrix.clone(), 0.01, 1.0)
    assert damping == pytest.approx(0.1)
    damped = matrix + 0.1 * matrix.diagonal().mean() * torch.eye(4)
    torch.testing.assert_close(factor.triu().T @ factor.triu(), torch.linalg.inv(damped))
    with pytest.raises(ArithmeticError, match="not positive definite"):
        inverse_factor(torch.diag(torch.tensor([1.0, -2.0])), 0.01, 1.0)


def column_by_column(
    weight: torch.Tensor, upper: torch.Tensor, sparsity: float, pattern: Pattern, block: int
) -> torch.Tensor:
    """Algorithm 1 for weight [rows, columns], each update reaching all columns at once."""
    weight = weight.clone()
    columns = weight.shape[1]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        scale = upper.diagonal()[start:stop]
        if not pattern.structured:
            score = (weight[:, start:stop] / scale).square()
            limit = score.flatten().sort().values[int(score.numel() * sparsity)]
            mask = score <= limit
        else:
            mask = torch.zeros(weight.shape[0], stop - start, dtype=torch.bool)
        for i in range(start, stop):
            if pattern.structured and i % pattern.group == 0:
                end = min(i + pattern.group, stop)
                score = (weight[:, i:end] / upper.diagonal()[i:end]).square()
                lowest = score.argsort(dim=1, stable=True)[:, : pattern.zeroed]
                group = torch.zeros_like(score, dtype=torch.bool).scatter_(1, lowest, True)
                mask[:, i - start : end - start] = group
            error = weight[:, i] * mask[:, i - start] / upper[i, i]
            weight[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
            weight[mask[:, i - start], i] = 0
    return weight


@pytest.mark.parametrize("pattern", [Pattern(), Pattern(2, 4), Pattern(4, 8), Pattern(1, 3)])
def test_blocks_and_strips_give_the_update_of_single_columns(pattern: Pattern) -> None:
    weight = random(1, 10, 90)
    upper, _ = inverse_factor(positive(2, 90), 0.01, 1.0)
    got = weight.T.clone()
    prune_columns(got, upper, 0.5, pattern, block_size=48)
    expected = column_by_column(weight, upper, 0.5, pattern, 48)
    torch.testing.assert_close(got.T, expected, atol=1e-4, rtol=1e-4)


def test_update_beats_zeroing_the_same_weights() -> None:
    mixing = random(3, 32, 32)
    x = random(4, 8, 40, 32) @ mixing
    weight = random(5, 12, 32)
    pruned, statistic = weight.clone(), Hessian(32, "cpu")
    statistic.add(x)
    SparseGPT(Pattern(2, 4)).prune({"w": pruned}, statistic, 0.5)
    flat = x.reshape(-1, 32)
    ours = (flat @ (pruned - weight).T).square().sum()
    plain = (flat @ (weight * (pruned != 0) - weight).T).square().sum()
    assert ours < 0.7 * plain


def test_inputs_that_are_always_zero() -> None:
    x = random(7, 4, 20, 16)
    x[..., 3] = 0
    weight, statistic = random(8, 6, 16), Hessian(16, "cpu")
    statistic.add(x)
    facts = SparseGPT(Pattern()).prune({"w": weight}, statistic, 0.5)
    assert facts == {"damping": 0.01, "dead_inputs": 1}
    assert not weight[:, 3].any()
    assert bool(torch.isfinite(weight).all())


def test_hopeless_hessian_is_told_in_a_sentence() -> None:
    statistic = Hessian(4, "cpu")
    statistic.samples = 1
    statistic.matrix.copy_(torch.diag(torch.tensor([1.0, 1.0, 1.0, -9.0])))
    with pytest.raises(InputError, match="not positive definite of w even with damping 1"):
        SparseGPT(Pattern()).prune({"w": random(9, 3, 4)}, statistic, 0.5)
