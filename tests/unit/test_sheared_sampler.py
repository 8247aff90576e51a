"""The sampler of domains: shares, epochs, and the same rows whatever stops it and wherever."""

import json
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.errors import InputError
from methods.sheared_llama.proportions import Float64
from methods.sheared_llama.sampler import DomainSampler

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=4)
SEEDS = st.integers(0, 2**32 - 1)


def sampler(
    sizes: list[int], shares: list[float] | None = None, batch: int = 4, seed: int = 0
) -> DomainSampler:
    names = {f"d{index}": size for index, size in enumerate(sizes)}
    even = [1 / len(sizes)] * len(sizes)
    return DomainSampler(names, np.array(shares or even), batch, seed)


def drawn(source: DomainSampler, batches: int) -> list[tuple[list[int], list[int]]]:
    found = []
    for _ in range(batches):
        draw = source.draw()
        source.advance(draw)
        found.append((draw.domains.tolist(), draw.rows.tolist()))
    return found


def skewed(count: int, step: int) -> Float64:
    """Proportions that differ with the step."""
    parts = np.arange(1, count + 1, dtype=np.float64) ** (1 + step % 3)
    shares: Float64 = parts / parts.sum()
    return shares


def run(source: DomainSampler, first: int, end: int) -> list[tuple[list[int], list[int]]]:
    """Batches `first` to `end` of a run whose proportions change every other step."""
    found = []
    for step in range(first, end):
        if step % 2:
            source.set_proportions(skewed(len(source.domains), step))
        found += drawn(source, 1)
    return found


@given(SIZES, st.integers(1, 9), SEEDS, st.integers(0, 8))
def test_a_run_stopped_anywhere_goes_on_with_the_same_rows(
    sizes: list[int], batch: int, seed: int, stop: int
) -> None:
    whole = sampler(sizes, batch=batch, seed=seed)
    expected = run(whole, 0, 8)
    stopped = sampler(sizes, batch=batch, seed=seed)
    before = run(stopped, 0, stop)
    saved = stopped.state_dict()
    assert json.loads(json.dumps(saved)) == saved
    resumed = sampler(sizes, batch=batch, seed=seed)
    resumed.load_state_dict(json.loads(json.dumps(saved)))
    assert resumed.proportions.tolist() == stopped.proportions.tolist()
    assert before + run(resumed, stop, 8) == expected
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.history == whole.history


@given(SIZES, st.integers(1, 9), SEEDS, st.integers(1, 12))
def test_an_epoch_has_every_row_of_a_domain_once(
    sizes: list[int], batch: int, seed: int, batches: int
) -> None:
    source = sampler(sizes, batch=batch, seed=seed)
    rows: dict[int, list[int]] = {index: [] for index in range(len(sizes))}
    for domains, numbers in drawn(source, batches):
        for domain, number in zip(domains, numbers, strict=True):
            rows[domain].append(number)
    for domain, size in enumerate(sizes):
        found = rows[domain]
        epochs = [found[start : start + size] for start in range(0, len(found), size)]
        for epoch in epochs[:-1]:
            assert sorted(epoch) == list(range(size))
        last = epochs[-1] if epochs else []
        assert len(set(last)) == len(last)
        assert source.seen(f"d{domain}").tolist() == last
        assert source.epochs[f"d{domain}"] == len(epochs)


def test_a_domain_that_runs_out_says_so_and_begins_in_another_order() -> None:
    source = sampler([1000, 40], batch=20)
    restarts: dict[int, dict[str, int]] = {}
    orders: list[int] = []
    for step in range(9):
        draw = source.draw()
        source.advance(draw)
        orders += draw.rows[draw.domains == 1].tolist()
        if draw.restarted:
            restarts[step] = draw.restarted
    assert 80 < len(orders) <= 120
    assert [*restarts.values()] == [{"d1": 2}, {"d1": 3}]
    assert orders[:40] != orders[40:80]
    assert source.epochs == {"d0": 1, "d1": 3}


def test_one_batch_may_take_a_tiny_domain_through_several_epochs() -> None:
    draw = sampler([2], batch=7).draw()
    assert sorted(draw.rows.tolist())[:3] == [0, 0, 0]
    assert draw.restarted == {"d0": 4}
    assert draw.after.taken == (7,)


def test_rows_come_by_the_proportions() -> None:
    shares = [0.5, 0.3, 0.2, 0.0]
    source = sampler([10_000] * 4, shares, batch=100)
    counts = Counter(domain for domains, _ in drawn(source, 400) for domain in domains)
    for domain, share in enumerate(shares):  # within five standard deviations
        assert abs(counts[domain] - 40_000 * share) <= 5 * (40_000 * share * (1 - share)) ** 0.5


def test_the_process_s_random_numbers_have_no_say() -> None:
    np.random.seed(1)
    random.seed(1)
    first = drawn(sampler([50, 60]), 5)
    np.random.seed(2)
    random.seed(2)
    assert drawn(sampler([50, 60]), 5) == first
    assert drawn(sampler([50, 60], seed=1), 5) != first


def test_new_proportions_hold_from_the_next_batch_on() -> None:
    source = sampler([50, 60], [1.0, 0.0])
    assert all(domains == [0] * 4 for domains, _ in drawn(source, 3))
    source.set_proportions(np.array([0.5, 0.5]))
    source.set_proportions(np.array([0.0, 1.0]))  # before any batch: the last counts
    assert all(domains == [1] * 4 for domains, _ in drawn(source, 3))
    assert [(change.step, change.proportions) for change in source.history] == [
        (0, {"d0": 1.0, "d1": 0.0}),
        (3, {"d0": 0.0, "d1": 1.0}),
    ]


def test_a_caller_s_array_is_not_kept() -> None:
    shares = np.array([1.0, 0.0])
    source = sampler([5, 5])
    source.set_proportions(shares)
    shares[:] = [0.0, 1.0]
    assert source.draw().domains.tolist() == [0] * 4


def test_drawing_ahead_leaves_the_sampler_where_it_is() -> None:
    source = sampler([7, 3], batch=5)
    first = source.draw()
    second = source.draw(first.after)
    assert drawn(source, 2) == [
        (draw.domains.tolist(), draw.rows.tolist()) for draw in (first, second)
    ]


@pytest.mark.parametrize("shares", [[0.5, 0.4], [1.5, -0.5], [float("nan"), 1.0]])
def test_refuses_proportions_that_are_none(shares: list[float]) -> None:
    source = sampler([5, 5])
    with pytest.raises(InputError, match="SHARES"):
        source.set_proportions(np.array(shares))
    assert source.proportions.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"sizes": [5, 6]}, r"other rows \(\[5, 5\], now \[5, 6\]\)"),
        ({"sizes": [5]}, "other domains"),
        ({"batch": 8}, "other sequences a batch"),
        ({"seed": 3}, "other seed"),
    ],
)
def test_refuses_the_state_of_another_run(other: dict[str, Any], sentence: str) -> None:
    saved = sampler([5, 5]).state_dict()
    with pytest.raises(InputError, match=sentence):
        sampler(**{"sizes": [5, 5], **other}).load_state_dict(saved)


@pytest.mark.parametrize("change", [{"step": -1}, {"history": []}, {"version": 2}, {"more": 1}])
def test_refuses_what_is_no_state(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="saved state of the data cannot be used"):
        sampler([5]).load_state_dict({**sampler([5]).state_dict(), **change})
