"""Magnitude pruning against sorting."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.pattern import Pattern
from methods.magnitude.algorithm import Magnitude, zero_smallest, zero_smallest_in_groups


@given(st.integers(0, 99), st.floats(0.01, 0.99), st.sampled_from(["float32", "bfloat16"]))
def test_threshold_goes_too(seed: int, sparsity: float, dtype: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(7, 13, generator=generator).to(getattr(torch, dtype))
    threshold = weight.abs().flatten().sort().values[int(91 * sparsity)]
    expected = weight.where(weight.abs() > threshold, 0)
    zero_smallest(weight, sparsity)
    assert torch.equal(weight, expected)


def test_zeros_are_positive() -> None:
    weight = torch.tensor([[-1.0, 2.0, -3.0, 4.0]])
    zero_smallest_in_groups(weight, Pattern(2, 4))
    assert weight.tolist() == [[0, 0, -3, 4]]
    assert not torch.signbit(weight[0, 0])


def test_attainable_counts_a_partial_group_as_whole_ones() -> None:
    assert Magnitude(Pattern(4, 8)).attainable(64, 172, 0.5) == 64 * 88
