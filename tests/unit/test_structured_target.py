"""What shapes can be left, which one PARAMS takes, and the steps between."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.structured.candidates import ALIKE, TOLERANCE, candidates
from espalier.pruning.structured.parameters import short_count
from espalier.pruning.structured.target import target_shapes
from espalier.pruning.structured.unroll import between, unroll
from methods.minitron.spec import DepthParameters, MinitronParameters, WidthParameters

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
PARENT = Shapes.of(LLAMA_8B)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"layers": 32}, "LAYERS=32 layers cannot be left of 32"),
        ({"layers": 40}, "give 1 to 31"),
        ({"hidden": 5000}, "HIDDEN=5000 is above the parent's 4096 hidden channels"),
        ({"ffn": 20000}, "FFN=20000 is above the parent's 14336"),
        ({"heads": 20}, "HEADS=20 is not divisible by KV_HEADS=8"),
        ({"heads": 16, "kv_heads": 6}, "HEADS=16 is not divisible by KV_HEADS=6"),
        ({"heads": 32, "kv_heads": 4}, "8 query heads a group and the parent has 4"),
        ({"heads": 4}, "HEADS=4 is not divisible by KV_HEADS=8"),
        ({"kv_heads": 9}, "KV_HEADS=9 is above"),
        ({"hidden": 3000}, "HIDDEN=3000 is not a multiple of the 32 heads"),
        ({"heads": 24}, "HIDDEN=4096 is not a multiple of the 24 heads"),
        ({"hidden": 4096, "ffn": 14336}, "nothing would be removed"),
    ],
)
def test_what_cannot_be_left(sizes: dict[str, int], says: str) -> None:
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        target_shapes(PARENT, **sizes)


def test_heads_alone_thin_every_group_and_groups_alone_go_whole() -> None:
    thinned = target_shapes(PARENT, heads=16)
    assert (thinned.heads, thinned.kv_heads, thinned.head_dim) == (16, 8, 128)
    fewer = target_shapes(PARENT, kv_heads=4)
    assert (fewer.heads, fewer.kv_heads) == (16, 4)


def test_params_of_the_published_shapes() -> None:
    width = target_shapes(PARENT, hidden=3072, ffn=9216)
    depth = target_shapes(PARENT, layers=16)
    assert width.parameters == pytest.approx(4.51e9, rel=0.002)
    assert depth.parameters == pytest.approx(4.54e9, rel=0.002)


@pytest.mark.parametrize("axes", [("layers",), ("hidden", "ffn"), ("layers", "hidden", "ffn")])
def test_the_chosen_candidate_is_the_most_even_near_one(axes: tuple[Any, ...]) -> None:
    wanted = 4_000_000_000
    found = candidates(PARENT, wanted, axes)
    chosen = found[0]
    assert all(abs(c.gap) <= TOLERANCE for c in found) or len(axes) == 1
    assert chosen.spread <= min(c.spread for c in found) + ALIKE
    for candidate in found:
        assert candidate.gap == pytest.approx(candidate.shapes.parameters / wanted - 1)
    # Brute force over every depth: nothing is nearer among equals.
    if axes == ("layers",):
        gaps = [abs(replace(PARENT, layers=n).parameters - wanted) for n in range(1, 32)]
        assert chosen.shapes.layers == gaps.index(min(gaps)) + 1


def test_params_above_the_parent_are_refused() -> None:
    with pytest.raises(InputError, match="PARAMS=9000000000 is not below the parent's 80"):
        candidates(PARENT, 9_000_000_000, ("layers",))


def test_params_and_sizes_exclude_each_other() -> None:
    with pytest.raises(InputError, match="PARAMS=4000000000 chooses"):
        WidthParameters.from_assignments({"PARAMS": "4B", "HIDDEN": "3072"})
    with pytest.raises(InputError, match="say what is to be left: give LAYERS or PARAMS"):
        DepthParameters.from_assignments({})
    with pytest.raises(InputError, match="PARAMS=manyB is not a number"):
        DepthParameters.from_assignments({"PARAMS": "manyB"})
    # PARAMS does not choose heads, so both may be given.
    parameters = WidthParameters.from_assignments({"PARAMS": "4B", "KV_HEADS": "4"})
    (step,) = unroll(parameters, LLAMA_8B).steps
    assert (step.kv_heads, step.params, step.steps) == (4, None, 1)
    assert step.target(PARENT).parameters == pytest.approx(4e9, rel=TOLERANCE)


def test_unrolling_without_a_config() -> None:
    plain = DepthParameters.from_assignments({"LAYERS": "16"})
    assert unroll(plain, {}).steps == (plain,)
    for words in ({"PARAMS": "4B"}, {"LAYERS": "16", "STEPS": "2"}):
        with pytest.raises(InputError, match="fetch it first"):
            unroll(DepthParameters.from_assignments(words), {})


def test_both_axes_in_steps() -> None:
    words = {"LAYERS": "24", "HIDDEN": "3072", "HEADS": "16", "KV_HEADS": "4", "STEPS": "2"}
    parameters = MinitronParameters.from_assignments(words)
    assert parameters.label() == "24-h3072-a16-kv4-steps2"
    steps = unroll(parameters, LLAMA_8B).steps
    assert [(s.layers, s.hidden, s.heads, s.kv_heads) for s in steps] == [
        (28, 3600, 24, 6),
        (24, 3072, 16, 4),
    ]
    assert all(s.ffn is None and s.steps == 1 for s in steps)
    assert steps[0].unused() == frozenset()
    depth_only = MinitronParameters.from_assignments({"LAYERS": "24"})
    assert depth_only.unused() == {"width_scores"}


@given(
    sizes=st.tuples(st.integers(1, 32), st.integers(1, 4096), st.integers(1, 14336)),
    kv_heads=st.integers(1, 8),
    queries=st.integers(1, 4),
    steps=st.integers(1, 12),
)
def test_every_step_can_be_reached_from_the_one_before(
    sizes: tuple[int, int, int], kv_heads: int, queries: int, steps: int
) -> None:
    layers, hidden, ffn = sizes
    heads = kv_heads * queries
    hidden = max(hidden // heads, 1) * heads
    changes = {"layers": layers, "intermediate": ffn, "hidden": hidden, "heads": heads}
    target = replace(PARENT, kv_heads=kv_heads, **changes)
    assume(target != PARENT)
    shapes = between(PARENT, target, steps)
    assert shapes[-1] == target
    assert len(shapes) <= steps
    before = PARENT
    for shape in shapes:
        widths = {"hidden": shape.hidden, "ffn": shape.intermediate, "heads": shape.heads}
        fewer = {"layers": shape.layers} if shape.layers < before.layers else {}
        assert target_shapes(before, kv_heads=shape.kv_heads, **widths, **fewer) == shape
        before = shape


@pytest.mark.parametrize(
    ("count", "text"), [(4_000_000_000, "4B"), (1_050_000, "1.05M"), (700_000, "700K"), (12, "12")]
)
def test_counts_are_written_as_they_are_read(count: int, text: str) -> None:
    assert short_count(count) == text
    parsed = DepthParameters.from_assignments({"PARAMS": text})
    assert parsed.params == count
