"""Losses by domain: against plain means, and to the bit however rows are split."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.sheared_llama.losses import (
    IGNORED,
    LARGEST,
    means,
    next_token_losses,
    overall_mean,
    totals,
)

NAMES = ("cc", "wiki", "book")


@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 10_000), st.data())
def test_sums_are_the_same_however_rows_are_split(
    rows: int, tokens: int, seed: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand((rows, tokens), generator=generator) * 12
    domains = torch.randint(0, len(NAMES), (rows,), generator=generator)
    whole = totals(losses, domains, len(NAMES))
    order = torch.tensor(data.draw(st.permutations(range(rows))))
    size = data.draw(st.integers(1, rows))
    parts = [
        totals(part, its, len(NAMES))
        for part, its in zip(losses[order].split(size), domains[order].split(size), strict=True)
    ]
    assert torch.equal(torch.stack(parts).sum(0), whole)
    found = means(whole, NAMES)
    for index, name in enumerate(NAMES):
        mine = losses[domains == index].double()
        if not len(mine):
            assert found[name] is None
        else:
            assert found[name] == pytest.approx(float(mine.mean()), abs=3e-8)
    assert overall_mean(whole) == pytest.approx(float(losses.double().mean()), abs=3e-8)


def test_ignored_targets_count_in_no_mean() -> None:
    losses = torch.tensor([[1.0, 50.0], [3.0, 5.0], [math.nan, 7.0]])
    targets = torch.tensor([[4, IGNORED], [4, 4], [IGNORED, IGNORED]])
    found = means(totals(losses, torch.tensor([0, 0, 2]), 3, targets), NAMES)
    assert found == {"cc": 3.0, "wiki": None, "book": None}


def test_no_token_at_all_has_no_mean() -> None:
    none = torch.zeros((3, 3), dtype=torch.int64)
    assert means(none, NAMES) == dict.fromkeys(NAMES)
    assert overall_mean(none) is None
    assert torch.equal(totals(torch.ones(0, 4), torch.zeros(0, dtype=torch.int64), 3), none)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, LARGEST])
def test_a_broken_loss_is_seen_in_its_domain_alone(value: float) -> None:
    losses = torch.tensor([[1.0, value], [2.0, 2.0]])
    sums = totals(losses, torch.tensor([1, 0]), 3)
    found = means(sums, NAMES)
    assert found["cc"] == 2.0
    assert math.isnan(found["wiki"] or 0.0)
    assert found["book"] is None
    assert math.isnan(overall_mean(sums) or 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_next_token_losses_are_minus_log_probabilities(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 5, 11), generator=generator).to(dtype)
    ids = torch.randint(0, 11, (2, 5), generator=generator)
    found = next_token_losses(logits, ids)
    assert found.shape == (2, 4)
    assert found.dtype == torch.float32
    for row in range(2):
        for place in range(4):
            weights = [math.exp(value) for value in logits[row, place].float().tolist()]
            expected = -math.log(weights[int(ids[row, place + 1])] / sum(weights))
            assert float(found[row, place]) == pytest.approx(expected, abs=1e-5)
