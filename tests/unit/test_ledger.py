"""What a model has cost: one count of FLOPs for pretraining, training, calibration and searches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.ledger import Total
from espalier.contract.lineage import Reading
from espalier.contract.pruned import Masked
from espalier.contract.stage import Outcome
from espalier.models.cost import entries
from espalier.models.flops import (
    forward_flops,
    head_flops,
    layer_flops,
    pretraining_flops,
    training_flops,
)
from espalier.models.shapes import Shapes
from espalier.pruning.depth.cuts import cuts_of, layer_runs

SHAPES = Shapes(
    hidden=8, intermediate=16, layers=3, heads=4, kv_heads=2, head_dim=2, vocabulary=32,
    positions=64, tied=False, item_bytes=2,
)  # fmt: skip
MASKED = Masked(pattern="unstructured", target=0.5, achieved=0.5)
READ = {"samples": 2, "seqlen": 9}
WEIGHTS = 3 * (2 * 8 * 8 + 2 * 4 * 8 + 3 * 8 * 16) + 32 * 8  # without the embedding


def one(stage: str, outcome: Outcome, *scores: Reading) -> tuple[int | None, float | None]:
    (entry,) = entries(stage, "m", SHAPES, outcome, scores)
    return entry.tokens, entry.flops


def test_pretraining_is_counted_as_training_is() -> None:
    """6 a weight but the embedding's, and causal attention over the model's positions."""
    fetched = Outcome(notes={"pretraining_tokens": 1e6})
    expected = (6 * WEIGHTS + 12 * 3 * 8 * 64 / 2) * 1e6
    assert one("fetch", fetched) == (10**6, expected)
    assert expected == training_flops(SHAPES, 64) * 1e6
    long = SHAPES.__class__(**{**SHAPES.__dict__, "positions": 131072})
    assert pretraining_flops(long) == training_flops(SHAPES, 8192)
    assert one("adopt", Outcome()) == (None, None)
    assert one("adopt", Outcome(pruning=MASKED)) == (None, None)  # what it cost is not known


def test_a_calibration_is_a_forward_pass() -> None:
    calibrated = Outcome(pruning=MASKED, data={"samples": 2, "seqlen": 10})
    assert one("wanda", calibrated) == (20, 20 * (2 * WEIGHTS + 4 * 3 * 8 * 10 / 2))
    scored = one("shortgpt", Outcome(pruning=MASKED), Reading(30, 15))
    assert scored == (30, 30 * forward_flops(SHAPES, 15))
    assert entries("score-shortgpt", "s", SHAPES, Outcome()) == []


def test_every_pass_of_a_depth_search_counts() -> None:
    """The whole model and what follows each cut, by hand: 3 layers, blocks of one."""
    cuts = cuts_of(3, (1,))
    record = {"samples": 4, "seqlen": 10}
    notes = {
        "tokens_read": 36, "tokens_scored": 36, "layer_runs": layer_runs(3, cuts), "head_runs": 4,
    }  # fmt: skip
    layer = 2 * (WEIGHTS - 32 * 8) / 3 + 4 * 8 * 10 / 2
    expected = 36 * ((3 + 2 + 1 + 0) * layer + 4 * 2 * 32 * 8)
    assert one("minitron-depth", Outcome(pruning=MASKED), Reading.of(record, notes)) == (
        36,
        pytest.approx(expected),
    )


@given(st.integers(1, 9), st.integers(1, 500))
def test_layers_and_a_head_are_a_model(layers: int, seqlen: int) -> None:
    shapes = SHAPES.__class__(**{**SHAPES.__dict__, "layers": layers})
    parts = layers * layer_flops(shapes, seqlen) + head_flops(shapes)
    assert parts == pytest.approx(forward_flops(shapes, seqlen))
    assert training_flops(shapes, seqlen) == pytest.approx(3 * forward_flops(shapes, seqlen))


def test_sums_are_of_what_is_known() -> None:
    training = Outcome(training={"tokens": 7, "flops": 11.0})
    trained = entries("train-gpu", "t", SHAPES, training)
    fetched = entries("fetch", "m", SHAPES, Outcome(notes={"pretraining_tokens": 1e6}))
    pruned = entries(
        "wanda", "p", SHAPES, Outcome(pruning=MASKED, data={"samples": 2, "seqlen": 9})
    )
    flops = training_flops(SHAPES, 64) * 1e6 + 18 * forward_flops(SHAPES, 9) + 11
    total = Total.of([*fetched, *pruned, *trained])
    assert total.tokens == 1_000_007
    assert total.flops == pytest.approx(flops)
    unknown = entries("adopt", "a", SHAPES, Outcome())
    assert Total.of([*unknown, *trained]) == Total(tokens=None, flops=None)
    foreign = entries("x", "p", None, Outcome(pruning=MASKED, data=READ))
    assert foreign[0].flops is None
