"""The distribution of masks against closed forms and counts of its draws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.sheared_llama.hard_concrete import (
    BOUND,
    EPSILON,
    deterministic,
    expected_kept,
    keep_probability,
    sample,
    uniform,
)

LOG_ALPHAS = [-BOUND, -3.0, -1.5, -0.2, 0.0, 0.7, 2.0, BOUND]


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(st.floats(-4.6, 4.6), st.floats(1e-6, 1 - 1e-6))
def test_a_draw_by_hand(log_alpha: float, u: float) -> None:
    s = 1 / (1 + math.exp(-(math.log(u / (1 - u)) + log_alpha) * 1.5))
    expected = min(1.0, max(0.0, 1.2 * s - 0.1))
    assert float(sample(tensor([log_alpha]), tensor([u]))) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("log_alpha", LOG_ALPHAS)
def test_probabilities_are_those_of_the_draws(log_alpha: float) -> None:
    """P(z > 0), P(z = 1) and the mean, over an even grid of uniform numbers: no luck in it."""
    count = 1_000_000
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = sample(tensor([log_alpha]), u)
    assert float(keep_probability(tensor([log_alpha]))) == pytest.approx(
        float((drawn > 0).double().mean()), abs=2 / count
    )
    # s > 1.1 / 1.2 gives 1: ln(11) in place of -ln(11)
    one = 1 / (1 + math.exp(math.log(11) * 2 / 3 - log_alpha))
    assert float((drawn == 1).double().mean()) == pytest.approx(one, abs=2 / count)


@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 2.0])
def test_probability_by_random_draws(log_alpha: float) -> None:
    count = 200_000
    u = uniform((count,), torch.Generator().manual_seed(7))
    assert u.min() >= EPSILON and u.max() <= 1 - EPSILON
    share = float((sample(torch.tensor([log_alpha]), u) > 0).float().mean())
    expected = float(keep_probability(tensor([log_alpha])))
    assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / count)


def test_probability_as_the_reference_states_it() -> None:
    x = 0.1 / 1.2
    for log_alpha in [*LOG_ALPHAS, -40.0, 40.0]:
        below = 1 / (1 + math.exp(-(math.log(x / (1 - x)) * 2 / 3 - log_alpha)))
        expected = 1 - min(1 - 1e-6, max(1e-6, below))
        assert float(keep_probability(tensor([log_alpha]))) == pytest.approx(expected, abs=1e-12)


def test_gradients_are_differences() -> None:
    log_alpha = tensor([-1.2, -0.4, 0.3, 1.1]).requires_grad_()
    u = tensor([0.3, 0.55, 0.4, 0.6])
    assert torch.autograd.gradcheck(lambda values: sample(values, u), log_alpha)
    assert torch.autograd.gradcheck(keep_probability, log_alpha)


@given(
    st.lists(st.floats(-4.5, 4.5, width=32), min_size=1, max_size=12),
    st.lists(st.floats(-4.5, 4.5, width=32), min_size=12, max_size=12),
    st.data(),
)
def test_exactly_the_kept_are_not_zero(
    one: list[float], other: list[float], data: st.DataObject
) -> None:
    rows = torch.tensor([one, other[: len(one)]])
    kept = data.draw(st.integers(0, len(one)))
    values = deterministic(rows, kept)
    assert values.count_nonzero(-1).tolist() == [kept, kept]
    for row, found in zip(rows.tolist(), values.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda place: (row[place], place))
        for place in order[: len(row) - kept]:
            assert found[place] == 0
        for place in order[len(row) - kept :]:
            soft = 1 / (1 + math.exp(-row[place] * 1.5 * 0.8))
            assert found[place] == pytest.approx(soft, rel=1e-5)


def test_rows_may_keep_different_numbers() -> None:
    rows = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    values = deterministic(rows, torch.tensor([1, 2]))
    assert (values != 0).tolist() == [[True, False, False], [False, True, True]]


def test_what_is_zero_has_the_gradient_of_its_soft_value() -> None:
    log_alpha = tensor([-2.0, 0.5, 1.0]).requires_grad_()
    (found,) = torch.autograd.grad(deterministic(log_alpha, 2).sum(), log_alpha)
    soft = (log_alpha.detach() * 1.2).sigmoid()
    assert torch.allclose(found, 1.2 * soft * (1 - soft), rtol=1e-12)


def test_expected_number_is_that_of_the_probabilities() -> None:
    probabilities = tensor([0.9, 0.9, 0.5, 0.4, 0.5, 0.5, 0.3, 0.1]).view(2, 4)  # 2.7, 1.4
    zero = math.log(1 / 11) * 2 / 3
    log_alpha = (probabilities / (1 - probabilities)).log() + zero
    assert torch.allclose(keep_probability(log_alpha), probabilities)
    assert expected_kept(log_alpha).tolist() == [3, 1]
    assert expected_kept(torch.full((3, 100), -BOUND)).tolist() == [5, 5, 5]  # 0.047 each
    assert expected_kept(torch.full((2048,), BOUND)).tolist() == 2044  # 0.998 each
