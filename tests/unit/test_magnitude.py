"""Magnitude pruning against sorting."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.pattern import Pattern
from espalier.models import zeros
from methods.magnitude.algorithm import Magnitude, zero_smallest, zero_smallest_in_groups


def smallest_by_sorting(weight: torch.Tensor, count: int) -> torch.Tensor:
    """The reference's |W| <= the value at `count`, cut to the first `count` where that is more."""
    magnitudes = weight.abs().flatten()
    reference = magnitudes <= magnitudes.sort().values[count]
    if int(reference.sum()) > count + 1:
        first = magnitudes.sort(stable=True).indices[:count]
        reference = torch.zeros_like(reference).scatter_(0, first, True)
    return reference.view_as(weight)


@pytest.mark.parametrize("block", [1, 30, 1 << 21])
@given(
    st.integers(0, 999),
    st.floats(0.01, 0.99),
    st.sampled_from(["float32", "bfloat16", "float16"]),
    st.sampled_from([None, 0.5, 0.1, 1.0, 3.0]),
)
def test_threshold_goes_too_and_of_equals_the_first(
    block: int, seed: int, sparsity: float, dtype: str, grid: float | None
) -> None:
    """`grid` rounds the weights to few values: ternary ones, or nothing but zeros at last."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(7, 13, generator=generator)
    weight = (weight if grid is None else (weight / grid).round() * grid).to(getattr(torch, dtype))
    expected = weight.masked_fill(smallest_by_sorting(weight, int(91 * sparsity)), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zeros.row_blocks, "__defaults__", (block,))
        zero_smallest(weight, sparsity)
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.7])
def test_ternary_weights_lose_exactly_the_share(sparsity: float) -> None:
    scale = 0.163
    weight = torch.randint(0, 2, (24, 20)).float().mul(2 * scale).sub(scale)  # no zeros, two values
    zero_smallest(weight, sparsity)
    assert (weight == 0).flatten().nonzero()[:, 0].tolist() == list(range(int(480 * sparsity)))


def test_zeros_are_positive() -> None:
    weight = torch.tensor([[-1.0, 2.0, -3.0, 4.0]])
    zero_smallest_in_groups(weight, Pattern(2, 4))
    assert weight.tolist() == [[0, 0, -3, 4]]
    assert not torch.signbit(weight[0, 0])


def test_attainable_counts_a_partial_group_as_whole_ones() -> None:
    assert Magnitude(Pattern(4, 8)).attainable(64, 172, 0.5) == 64 * 88
