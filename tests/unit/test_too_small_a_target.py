"""A target that is less than one weight is refused, or said where it is of some matrices only."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.pattern import Pattern
from espalier.errors import InputError
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.masked.effect import untouched_matrices
from espalier.pruning.masked.stream import PruningJob, prune_checkpoint
from methods.magnitude.algorithm import Magnitude
from methods.sparsegpt.algorithm import SparseGPT
from methods.wanda.algorithm import Wanda
from tests.unit.tiny_checkpoints import make_checkpoint, make_context, make_ids

FREE = Pattern()


class Variant(Wanda):
    def __init__(self, pattern: Pattern) -> None:
        super().__init__(pattern, variant=True)


METHODS = [Magnitude, Wanda, Variant, SparseGPT]


def job(method: Any, sparsity: float) -> PruningJob:
    return PruningJob(method(FREE), FREE, sparsity, make_ids())


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_remove_is_refused_before_work_and_the_advice_is_enough(
    tmp_path: Path, method: Any
) -> None:
    make_checkpoint(tmp_path / "m")
    with pytest.raises(InputError, match="nothing would be removed; give SPARSITY=") as caught:
        prune_checkpoint(make_context(tmp_path / "m", tmp_path / "a"), job(method, 0.0001))
    assert not list((tmp_path / "a").iterdir())
    named = re.search(r"SPARSITY=([\d.]+) or more", str(caught.value))
    assert named is not None
    context = make_context(tmp_path / "m", tmp_path / "b")
    record = prune_checkpoint(context, job(method, float(named[1])))
    assert record.achieved > 0
    assert record.untouched == ()
    assert all(min(layer.matrices.values()) > 0 for layer in record.layers)


def test_matrices_that_stay_as_they_are_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of 32 weights lose none at 0.025, those of 44 one."""
    make_checkpoint(tmp_path / "m")
    record = prune_checkpoint(make_context(tmp_path / "m", tmp_path / "o"), job(Wanda, 0.025))
    assert len(record.untouched) == 6
    assert "mlp.down_proj" not in record.untouched
    for layer in record.layers:
        assert {name for name, share in layer.matrices.items() if not share} == {*record.untouched}
    said = capsys.readouterr().err.replace("\n", " ")
    assert "SPARSITY=0.025 is less than one weight of self_attn.q_proj, self_attn.k_proj" in said


@given(
    method=st.sampled_from(METHODS),
    sparsity=st.floats(1e-7, 0.05),
    hidden=st.integers(1, 4096),
    intermediate=st.integers(1, 12000),
)
def test_whatever_is_named_reaches_every_matrix(
    method: Any, sparsity: float, hidden: int, intermediate: int
) -> None:
    shapes = replace(SHAPES, hidden=hidden, intermediate=intermediate)
    pruner = method(FREE)
    try:
        untouched = untouched_matrices(pruner, [sparsity], shapes)
    except InputError as error:
        named = float(str(error).split("SPARSITY=")[2].split(" ")[0])
        if named < 1:  # rows of one weight lose it at no share
            assert untouched_matrices(pruner, [named], shapes) == ()
            assert sparsity < named
    else:
        for name, shape in shapes.matrices.items():
            assert (name in untouched) is (pruner.attainable(*shape, sparsity) == 0)


SHAPES = Shapes(
    hidden=32, intermediate=44, layers=2, heads=4, kv_heads=2, head_dim=8, vocabulary=96,
    positions=64, tied=False, item_bytes=4,
)  # fmt: skip


def test_the_shapes_are_the_tiny_checkpoints(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    assert Shapes.of(read_config(tmp_path)) == SHAPES
