"""Proportions of domains: closed forms, a plain loop, and what users may get wrong."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.errors import InputError
from methods.sheared_llama.named import named_numbers
from methods.sheared_llama.proportions import (
    SMOOTHING,
    excess_losses,
    initial_proportions,
    updated,
)
from methods.sheared_llama.shares import PUBLISHED, Rule, require_shares

NATS = st.floats(-20, 20)
PARTS = st.lists(st.integers(0, 1000), min_size=2, max_size=9).filter(any)


def distribution(parts: list[int]) -> "np.ndarray":
    return np.array(parts, dtype=np.float64) / sum(parts)


def by_loop(rule: str, shares: list[float], excess: list[float]) -> list[float]:
    """The rule as it is written down, a domain at a time."""
    if rule == "doremi":
        weights = [share * math.exp(value) for share, value in zip(shares, excess, strict=True)]
    else:
        weights = [math.exp(share + value) for share, value in zip(shares, excess, strict=True)]
    plain = [weight / sum(weights) for weight in weights]
    smooth = [(1 - 1e-4) * share + 1e-4 / len(plain) for share in plain]
    return [share / sum(smooth) for share in smooth]


@pytest.mark.parametrize("rule", ["doremi", "bandit"])
@given(parts=PARTS, data=st.data())
def test_follows_the_rule_and_sums_to_one(
    rule: Rule, parts: list[int], data: st.DataObject
) -> None:
    shares = distribution(parts)
    excess = data.draw(st.lists(NATS, min_size=len(parts), max_size=len(parts)))
    before = shares.copy()
    after = updated(rule, shares, excess)
    assert after == pytest.approx(by_loop(rule, shares.tolist(), excess), rel=1e-12, abs=1e-15)
    assert abs(after.sum() - 1) < 1e-12
    assert after.min() >= SMOOTHING / len(parts) * (1 - 1e-9)
    assert (shares == before).all()


@given(PARTS, st.lists(NATS, min_size=9, max_size=9), st.floats(-5, 5))
def test_only_differences_of_excess_losses_count(
    parts: list[int], excess: list[float], shift: float
) -> None:
    shares, excess = distribution(parts), excess[: len(parts)]
    moved = updated("doremi", shares, [value + shift for value in excess])
    assert moved == pytest.approx(updated("doremi", shares, excess), rel=1e-9, abs=1e-12)


def test_the_domain_with_more_excess_gains() -> None:
    shares = distribution([1, 1, 2])
    doremi = updated("doremi", shares, [0.3, 0.0, 0.0])
    assert doremi[0] > shares[0]
    assert doremi[1] < shares[1]
    assert doremi[2] / doremi[1] == pytest.approx(2, rel=1e-3)  # the smoothing aside
    weight = 0.25 * math.exp(0.3) / (0.25 * math.exp(0.3) + 0.75)
    assert doremi[0] == pytest.approx((1 - 1e-4) * weight + 1e-4 / 3, abs=1e-15)
    faster = updated("doremi", shares, [0.3, 0.0, 0.0], rate=2.0)
    assert faster[0] > doremi[0]


def test_excess_of_zero_moves_nothing_but_by_smoothing() -> None:
    shares = distribution([5, 3, 2])
    expected = (1 - SMOOTHING) * shares + SMOOTHING / 3
    assert updated("doremi", shares, [0.0, 0.0, 0.0]) == pytest.approx(expected, abs=1e-15)
    even = distribution([1, 1, 1, 1])
    for rule in ("doremi", "bandit"):
        assert updated(rule, even, [0.7] * 4) == pytest.approx(even, abs=1e-15)


def test_repeated_updates_with_smoothing_settle_instead_of_dying() -> None:
    shares = distribution([1, 1])
    for _ in range(200):
        shares = updated("doremi", shares, [1.0, 0.0])
    again = updated("doremi", shares, [1.0, 0.0])
    assert again == pytest.approx(shares, abs=1e-12)
    assert SMOOTHING / 2 <= shares[1] < 2 * SMOOTHING


def test_fixed_proportions_stay_to_the_bit() -> None:
    shares = distribution([3, 4, 7])
    assert updated("fixed", shares, [9.0, -9.0, 0.0]).tolist() == shares.tolist()


@pytest.mark.parametrize("rule", ["doremi", "bandit"])
def test_a_domain_without_a_loss_keeps_its_share(rule: Rule) -> None:
    shares = distribution([5, 3, 2])
    after = updated(rule, shares, [0.5, None, 0.1])
    assert abs(after.sum() - 1) < 1e-12
    weights = np.exp([0.5, 0.1]) * (shares[[0, 2]] if rule == "doremi" else np.exp(shares[[0, 2]]))
    divided = 0.7 * weights / weights.sum()
    expected = (1 - SMOOTHING) * np.array([divided[0], 0.3, divided[1]]) + SMOOTHING / 3
    assert after == pytest.approx(expected, abs=1e-15)
    assert updated(rule, shares, [None] * 3).tolist() == shares.tolist()


def test_a_domain_that_was_never_drawn_can_come_back() -> None:
    after = updated("doremi", np.array([1.0, 0.0]), [0.0, 5.0])
    assert after[1] == pytest.approx(SMOOTHING / 2)
    alone = updated("doremi", np.array([1.0, 0.0]), [None, 5.0])
    assert alone.tolist() == pytest.approx([1 - SMOOTHING / 2, SMOOTHING / 2])


@pytest.mark.parametrize("rule", ["doremi", "bandit"])
def test_enormous_losses_give_no_nan(rule: Rule) -> None:
    after = updated(rule, distribution([1, 1, 1]), [1e6, -1e6, 0.0])
    assert np.isfinite(after).all()
    assert after[0] == pytest.approx(1 - SMOOTHING * 2 / 3)


def test_excess_losses_are_not_clipped() -> None:
    losses = {"cc": 2.0, "wiki": 1.0, "book": None}
    references = {"wiki": 1.5, "cc": 1.75, "book": 3.0}
    assert excess_losses(losses, references) == [0.25, -0.5, None]
    with pytest.raises(InputError, match=r"REFERENCE_LOSSES has no number for wiki"):
        excess_losses({"wiki": 1.0}, {})
    with pytest.raises(InputError, match=r"loss of wiki became NaN or infinite"):
        excess_losses({"wiki": math.nan}, {"wiki": 1.0})


def test_initial_proportions() -> None:
    tokens = dict.fromkeys(list(PUBLISHED)[::-1], 10)
    found = initial_proportions(tokens)
    assert found == pytest.approx([PUBLISHED[name] for name in tokens], abs=1e-15)
    assert abs(found.sum() - 1) < 1e-12
    assert initial_proportions({"law": 30, "code": 10}).tolist() == [0.75, 0.25]
    given_shares = {"code": 0.9, "law": 0.1}
    assert initial_proportions({"law": 30, "code": 10}, given_shares).tolist() == [0.1, 0.9]
    with pytest.raises(InputError, match="no tokens of code"):
        initial_proportions({"law": 3, "code": 0})
    with pytest.raises(InputError, match="no tokens of any domain"):
        initial_proportions({})


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ({"cc": 0.5, "wiki": 0.4}, r"sum to 0\.9; give shares that sum to 1\.$"),
        ({"cc": 1.5, "wiki": -0.5}, r"gives cc 1\.5; each share lies between 0 and 1\.$"),
        ({"cc": 1.0}, r"has no number for wiki; give one for each of cc, wiki\.$"),
        ({"cc": 0.5, "wiki": 0.3, "x": 0.2}, r"names x, which the data does not have"),
        ({"cc": math.nan, "wiki": 1.0}, r"gives cc nan"),
    ],
)
def test_refuses_what_is_no_distribution(shares: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        require_shares(shares, ["cc", "wiki"])


def test_decimals_that_nearly_sum_to_one_are_normalised() -> None:
    found = require_shares({"a": 0.3333333, "b": 0.3333333, "c": 0.3333334}, ["a", "b", "c"])
    assert abs(sum(found) - 1) < 1e-12


def test_reads_numbers_by_domain() -> None:
    assert named_numbers("cc=0.67, c4-rp =.33", "P") == {"cc": 0.67, "c4-rp": 0.33}
    for text in ("cc", "cc=", "=1", "cc=x", "cc=nan", "cc=1,", ""):
        with pytest.raises(InputError, match="where a domain and a number belong"):
            named_numbers(text, "P")
    with pytest.raises(InputError, match="P names cc twice"):
        named_numbers("cc=1,cc=2", "P")
