"""Requests as a tree in rows: against each request alone, by brute force."""

import functools
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.requests.packing import best_fit
from eval.requests.plan import Plan, make_plan, row_lengths
from eval.requests.request import UNKNOWN_NEXT, Request, continued, prompt
from eval.requests.rows import PADDING, Row, tree_mask
from eval.requests.tree import build_tree

WINDOW = 24
LENGTHS = [8, 16, 24, 48]
token = st.integers(0, 3)  # few, so that much is shared


@st.composite
def requests_of(draw: st.DrawFn) -> list[Request]:
    """Few-shot prefixes, questions and choices of few tokens, in any order, some of them twice."""
    parts = st.lists(token, max_size=14)
    prefixes = draw(st.lists(parts, min_size=1, max_size=3))
    found = []
    for _ in range(draw(st.integers(0, 14))):
        context = [*draw(st.sampled_from(prefixes)), *draw(parts)] or [0]
        if draw(st.integers(0, 5)) == 0:
            found.append(prompt(context, WINDOW, draw(st.integers(1, 5))))
            continue
        for _ in range(draw(st.integers(1, 4))):
            answer = draw(st.lists(token, min_size=1, max_size=6))
            found.append(continued(context, answer, WINDOW))
    return found


def cost(length: int, chain: bool) -> float:
    return length * (100 + (1 if chain else 4) * length)


def planned(requests: list[Request]) -> Plan:
    return make_plan(requests, LENGTHS, cost)


@given(requests_of())
@settings(deadline=None, max_examples=300)
def test_every_target_is_once_where_its_request_alone_would_have_it(
    requests: list[Request],
) -> None:
    """A place sees exactly the tokens, at the positions, that the request alone would read."""
    seen: Counter[int] = Counter()
    for row in planned(requests).rows():
        check_row(row)
        mask = tree_mask(row.ends)
        for index in np.unique(row.requests):
            request = requests[index]
            seen[int(index)] += 1
            mine = row.requests == index
            assert row.targets[mine].tolist() == request.targets.tolist()
            reads = len(request.inputs) - len(request.targets)
            for place in row.at[mine]:
                reads += 1
                visible = np.flatnonzero(mask[place])
                assert row.ids[visible].tolist() == request.inputs[:reads].tolist()
                assert row.positions[visible].tolist() == list(range(reads))
    assert seen == Counter(range(len(requests)))


def check_row(row: Row) -> None:
    """Its form, whatever is asked."""
    assert len(row.ids) in LENGTHS
    assert len(row.ids) == len(row.positions) == len(row.ends)
    assert 0 < row.used <= len(row.ids)
    assert (row.ids[row.used :] == PADDING).all()
    assert (row.at < row.used).all()
    mask = tree_mask(row.ends)
    assert mask.diagonal().all()
    assert not mask[: row.used, row.used :].any()
    causal = np.tri(row.used, dtype=bool)
    assert row.is_chain == (mask[: row.used, : row.used] == causal).all()
    if row.is_chain:
        assert row.positions[: row.used].tolist() == list(range(row.used))


@given(requests_of())
@settings(deadline=None)
def test_the_tree_has_each_prefix_once(requests: list[Request]) -> None:
    prefixes = {
        tuple(request.inputs[:end].tolist())
        for request in requests
        for end in range(1, len(request.inputs) + 1)
    }
    counts = planned(requests).counts
    assert build_tree(requests).size == counts.tree == len(prefixes)
    assert counts.naive == sum(len(request.inputs) for request in requests)
    assert counts.tree <= counts.rows


@given(requests_of())
@settings(deadline=None)
def test_the_same_requests_give_the_same_rows(requests: list[Request]) -> None:
    first, second = planned(requests), planned(list(requests))
    rows = [(row.ids.tolist(), row.at.tolist(), row.requests.tolist()) for row in first.rows()]
    assert rows == [(r.ids.tolist(), r.at.tolist(), r.requests.tolist()) for r in second.rows()]
    assert first.counts == second.counts
    assert sum(len(ids) for ids, _, _ in rows) == first.counts.rows


@given(requests_of(), st.randoms())
@settings(deadline=None)
def test_the_order_of_requests_changes_no_count(requests: list[Request], random: object) -> None:
    mixed = list(requests)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert planned(mixed).counts == planned(requests).counts


@given(st.lists(st.integers(1, 10)), st.integers(10, 20))
def test_best_fit_fills_bins(sizes: list[int], room: int) -> None:
    bins = best_fit(sizes, room)
    assert sorted(index for held in bins for index in held) == list(range(len(sizes)))
    filled = sorted(sum(sizes[index] for index in held) for held in bins)
    assert all(total <= room for total in filled)
    assert all(first + second > room for first, second in itertools.pairwise(filled))


@given(st.lists(token, min_size=1, max_size=40), st.lists(token, min_size=1, max_size=WINDOW))
def test_what_does_not_fit_is_cut_off_on_the_left(context: list[int], answer: list[int]) -> None:
    """As lm-eval 0.4.13 says it: the last window + 1 tokens, and of them all but the final one."""
    request = continued(context, answer, WINDOW)
    assert request.inputs.tolist() == (context + answer)[-(WINDOW + 1) :][:-1]
    assert request.targets.tolist() == answer


def test_a_prompt_leaves_room_for_what_is_generated() -> None:
    request = prompt(list(range(30)), WINDOW, 4)
    assert request.inputs.tolist() == list(range(10, 30))
    assert request.targets.tolist() == [UNKNOWN_NEXT]


@pytest.mark.parametrize(
    "asked",
    [
        functools.partial(continued, [], [1], 8),
        functools.partial(continued, [1], [], 8),
        functools.partial(continued, [1], [1] * 9, 8),
        functools.partial(prompt, [], 8, 1),
        functools.partial(prompt, [1], 8, 8),
        functools.partial(Request, np.zeros(1, np.int32), np.zeros(2, np.int32)),
    ],
)
def test_what_cannot_be_asked_is_refused(asked: functools.partial[Request]) -> None:
    with pytest.raises(ValueError, match=r"token|target"):
        asked()


def test_a_request_that_no_row_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than a row of 48"):
        planned([continued([0] * 60, [1], 100)])


def test_requests_that_continue_one_another_nest_without_recursion() -> None:
    ids = [index % 7 for index in range(3000)]
    requests = [continued(ids[:end], [9], 4096) for end in range(1, 3001)]
    plan = make_plan(requests, [4096], cost)
    (row,) = plan.rows()
    assert row.is_chain
    assert row.used == plan.counts.tree == 3000
    assert row.at.tolist() == list(range(3000))


def test_a_prefix_that_fits_once_is_not_repeated() -> None:
    """Two few-shot prefixes of ten questions of four choices: a row each."""
    requests = [
        continued([shots] * 20 + [2, question], [3, choice], 128)
        for shots in (0, 1)
        for question in range(10)
        for choice in range(4)
    ]
    plan = make_plan(requests, [64, 128], lambda length, chain: length)
    assert plan.counts.tree == 2 * (20 + 1 + 10 * 2)
    assert plan.counts.rows == 128
    assert plan.counts.naive == 80 * 23


def test_lengths_are_few() -> None:
    assert row_lengths(20) == [64, 128, 256, 512, 1024, 2048]
    assert row_lengths(700) == [64, 128, 256, 512, 704, 1024, 2048]
    assert row_lengths(5000) == [64, 128, 256, 512, 1024, 2048, 4096, 5056]
    assert row_lengths(0) == row_lengths(20)
