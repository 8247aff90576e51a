"""The fast selections choose what a stable sort chooses."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.pattern import Pattern
from espalier.pruning.masked.selection import (
    kth_smallest_magnitude,
    smallest_in_groups,
    smallest_in_rows,
    zeroed_in_row,
)

SEEDS = st.integers(0, 2**20)


def values(seed: int, *shape: int, levels: int = 5) -> torch.Tensor:
    """Few distinct values, so that ties are everywhere."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, shape, generator=generator).float()


def first_of_stable_sort(row: list[float], count: int) -> set[int]:
    return set(sorted(range(len(row)), key=lambda i: row[i])[:count])


def chosen(mask: torch.Tensor) -> set[int]:
    return set(mask.nonzero()[:, 0].tolist())


@given(SEEDS, st.integers(1, 4), st.integers(1, 20), st.floats(0, 1, exclude_max=True))
def test_rows(seed: int, rows: int, columns: int, fraction: float) -> None:
    scores, count = values(seed, rows, columns), int(columns * fraction)
    mask = smallest_in_rows(scores, count)
    for row, got in zip(scores.tolist(), mask, strict=True):
        assert chosen(got) == first_of_stable_sort(row, count)


@given(SEEDS, st.integers(2, 20), st.integers(1, 19), st.integers(1, 45))
def test_groups_and_the_last_partial_one(seed: int, group: int, zeroed: int, columns: int) -> None:
    pattern = Pattern(min(zeroed, group - 1), group)
    scores = values(seed, 3, columns)
    mask = smallest_in_groups(scores, pattern)
    for start in range(0, columns, group):
        for row, got in zip(scores[:, start : start + group], mask[:, start:], strict=True):
            expected = first_of_stable_sort(row.tolist(), pattern.zeroed)
            assert chosen(got[:group]) == expected
    assert mask.sum(dim=1).tolist() == [zeroed_in_row(columns, pattern)] * 3


@given(SEEDS, st.integers(1, 300), st.sampled_from(["float32", "bfloat16", "float16"]), st.data())
def test_kth_magnitude(seed: int, count: int, dtype: str, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, generator=generator).to(getattr(torch, dtype))
    index = data.draw(st.integers(0, count - 1))
    value, below, at_most = kth_smallest_magnitude(weight, index)
    assert value == weight.abs().sort().values[index]
    assert below == int((weight.abs() < value).sum())
    assert at_most == int((weight.abs() <= value).sum())


@given(SEEDS, st.floats(0, 0.9), st.floats(0, 0.9))
def test_more_sparsity_keeps_no_weight_that_less_removed(seed: int, a: float, b: float) -> None:
    scores = values(seed, 4, 30)
    less, more = (smallest_in_rows(scores, int(30 * f)) for f in sorted((a, b)))
    assert not (less & ~more).any()
