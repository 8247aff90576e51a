"""Exact match and F1 as SQuAD defines them, and where lm-eval's tasks look for them."""

import importlib

import pytest

from eval.squad_metrics import NAME, PACKAGE, compute_exact, compute_f1, normalize_answer, offer


def test_what_is_no_part_of_an_answer() -> None:
    assert normalize_answer("  The quick, brown   Fox! An a") == "quick brown fox"
    assert normalize_answer("theory") == "theory"


@pytest.mark.parametrize(
    ("one", "other", "exact", "f1"),
    [
        ("The Fox", "fox.", 1, 1.0),
        ("quick fox", "the lazy fox", 0, 0.5),
        ("fox fox dog", "fox", 0, 0.5),
        ("fox", "dog", 0, 0.0),
        ("the", "", 1, 1.0),
        ("", "fox", 0, 0.0),
    ],
)
def test_answers_are_compared_by_words(one: str, other: str, exact: int, f1: float) -> None:
    assert (compute_exact(one, other), compute_exact(other, one)) == (exact, exact)
    assert compute_f1(one, other) == compute_f1(other, one) == pytest.approx(f1)


def test_they_are_where_they_were() -> None:
    pytest.importorskip("transformers")
    offer()
    found = importlib.import_module(f"{PACKAGE}.{NAME}")
    assert found.compute_f1("quick fox", "the lazy fox") == 0.5
