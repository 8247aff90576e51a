"""Wanda against formulas written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.pattern import Pattern
from espalier.errors import InputError
from espalier.models import zeros
from espalier.pruning.masked.statistics import SquaredNorms
from methods.wanda.algorithm import Wanda, zero_by_row_share, zero_lowest
from methods.wanda.spec import STAGE, WandaParameters


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 99), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_statistic_is_the_mean_over_samples(seed: int, batches: list[int]) -> None:
    statistic = SquaredNorms(6, "cpu")
    inputs = [random(seed + i, size, 7, 6) for i, size in enumerate(batches)]
    for batch in inputs:
        statistic.add(batch)
    expected = torch.cat(inputs).square().sum(dim=1).mean(dim=0)
    torch.testing.assert_close(statistic.mean, expected)


@given(st.integers(0, 99))
def test_batches_give_the_same_statistic_bit_for_bit(seed: int) -> None:
    inputs = random(seed, 6, 7, 5)
    one, six = SquaredNorms(5, "cpu"), SquaredNorms(5, "cpu")
    for sample in inputs.split(1):
        one.add(sample)
    six.add(inputs)
    assert torch.equal(one.mean, six.mean)


def test_large_input_feature_protects_a_small_weight() -> None:
    weight = torch.tensor([[0.1, 1.0, -0.2, 2.0]])
    zero_lowest(weight, torch.tensor([100.0, 1, 1, 1]), 0.5, Pattern())
    assert weight.tolist() == [[pytest.approx(0.1), 0, 0, 2.0]]


@given(st.integers(0, 99), st.floats(0.01, 0.99))
def test_each_row_loses_the_same_count(seed: int, sparsity: float) -> None:
    weight = random(seed, 5, 23)
    zero_lowest(weight, torch.ones(23), sparsity, Pattern())
    assert (weight == 0).sum(dim=1).tolist() == [int(23 * sparsity)] * 5


def test_blocks_of_rows_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, blocked = random(3, 9, 16), random(3, 9, 16)
    zero_lowest(whole, torch.ones(16), 0.4, Pattern())
    monkeypatch.setattr(zeros.row_blocks, "__defaults__", (32,))
    zero_lowest(blocked, torch.ones(16), 0.4, Pattern())
    assert torch.equal(whole, blocked)


def variant_by_hand(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The bisection as specified, with plain loops."""

    def mask(alpha: float) -> torch.Tensor:
        rows = []
        for row in weight.abs():
            ordered = row.sort().values
            within = int((ordered.cumsum(0) <= alpha * row.sum()).sum())
            none = torch.zeros_like(row, dtype=torch.bool)
            rows.append(row <= ordered[within - 1] if within else none)
        return torch.stack(rows)

    alpha, low, high = 0.4, 0.0, 0.8
    current = mask(alpha)
    while abs(current.float().mean() - sparsity) > 0.001 and high - low >= 0.001:
        if current.float().mean() > sparsity:
            alpha, high = (alpha + low) / 2, alpha
        else:
            alpha, low = (alpha + high) / 2, alpha
        current = mask(alpha)
    return current


@given(st.integers(0, 99), st.floats(0.05, 0.7))
def test_variant(seed: int, sparsity: float) -> None:
    weight = random(seed, 6, 40)
    expected = variant_by_hand(weight, sparsity)
    pruned = weight.clone()
    zero_by_row_share(pruned, torch.ones(40), sparsity)
    assert torch.equal(pruned == 0, expected)


def test_variant_row_that_can_give_nothing_keeps_all() -> None:
    weight = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    zero_by_row_share(weight, torch.ones(2), 0.01)
    assert bool((weight != 0).all())


def test_attainable_counts_whole_weights() -> None:
    assert Wanda(Pattern()).attainable(10, 64, 0.7) == 440
    assert Wanda(Pattern(4, 8)).attainable(64, 172, 0.5) == 64 * 88


def test_parameters() -> None:
    parameters = WandaParameters.from_assignments({"VARIANT": "1", "BATCH": ""})
    assert parameters.variant
    assert parameters.batch is None
    with pytest.raises(InputError, match="VARIANT=1 is unstructured"):
        WandaParameters.from_assignments({"VARIANT": "1", "PATTERN": "2:4"})
    with pytest.raises(InputError, match="BATCH=0"):
        WandaParameters.from_assignments({"BATCH": "0"})
    assert STAGE.estimate is not None
