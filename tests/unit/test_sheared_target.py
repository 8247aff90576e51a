"""Which shapes can be asked for."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.errors import InputError
from espalier.models.shapes import Shapes
from methods.sheared_llama.target import PUBLISHED, Sizes, Target, sizes_of, units_of

LLAMA_2_7B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000,
}  # fmt: skip
PARENT = Shapes.of(LLAMA_2_7B)
GROUPED = Shapes.of({**LLAMA_2_7B, "num_key_value_heads": 8})


@pytest.mark.parametrize(
    ("name", "parameters"), [("2.7b", 2.70e9), ("1.3B", 1.35e9), ("370m", 0.37e9)]
)
def test_published_targets(name: str, parameters: float) -> None:
    target = Target.of(PARENT, sizes_of(name))
    assert target.shapes.parameters == pytest.approx(parameters, rel=0.02)
    assert target.shapes.head_dim == 128
    assert target.shapes.heads == target.kv_heads == PUBLISHED[name.lower()].heads
    assert Target.of(GROUPED, sizes_of(name)).kv_heads == target.kv_heads // 4


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (Sizes(layers=33), "LAYERS=33 is above the parent's 32"),
        (Sizes(hidden=4224), "HIDDEN=4224 is above the parent's 4096"),
        (Sizes(heads=64), "HEADS=64 is above the parent's 32 heads"),
        (Sizes(ffn=20000), "FFN=20000 is above the parent's 11008"),
        (Sizes(layers=0), "LAYERS=0 leaves nothing"),
        (Sizes(hidden=-4), "HIDDEN=-4 leaves nothing"),
        (Sizes(heads=0), "HEADS=0 leaves nothing"),
        (Sizes(ffn=0), "FFN=0 leaves nothing"),
        (Sizes(heads=18), "HEADS=18 is not a multiple of 4: .* give HEADS=16"),
        (Sizes(heads=2), "give HEADS=4"),
        (Sizes(hidden=2050, heads=16), "HIDDEN=2050 is not a multiple of the 16 heads"),
        (Sizes(), "nothing would be removed"),
        (Sizes(layers=32, hidden=4096, heads=32, ffn=11008), "nothing would be removed"),
    ],
)
def test_what_cannot_be_left(sizes: Sizes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Target.of(GROUPED, sizes)


def test_a_file_states_some_of_the_sizes(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text("hidden = 2048\nheads = 16\n")
    assert sizes_of(str(file)) == Sizes(hidden=2048, heads=16)
    for text, says in [
        ("hidden = 'x'", "hidden is 'x'; give a whole number"),
        ("hidden = true", "hidden is True"),
        ("hidden = 2.5", "hidden is 2.5"),
        ("width = 3", "states width; give only layers, hidden, heads, ffn"),
        ("hidden = ", "is not a TOML file"),
    ]:
        file.write_text(text)
        with pytest.raises(InputError, match=says):
            sizes_of(str(file))
    with pytest.raises(InputError, match="cannot be read"):
        sizes_of(str(tmp_path / "none.toml"))
    with pytest.raises(InputError, match=r"TARGET=3b is not known; give 2\.7b, 1\.3b, 370m or a"):
        sizes_of("3b")


@given(st.integers(1, 32), st.integers(1, 8), st.integers(1, 11008), st.integers(1, 4096))
def test_kept_and_sparsity_are_of_the_same_shape(
    layers: int, kv_heads: int, ffn: int, hidden: int
) -> None:
    heads = 4 * kv_heads
    hidden = max(hidden // heads, 1) * heads
    sizes = Sizes(layers, hidden, heads, ffn)
    if (layers, kv_heads, ffn, hidden) == (32, 8, 11008, 4096):
        return
    target = Target.of(GROUPED, sizes)
    units = units_of(GROUPED)
    for site, kept in target.kept.items():
        assert round(units[site] * (1 - target.sparsity[site])) == kept
    shapes = target.shapes
    assert (shapes.layers, shapes.hidden, shapes.heads) == (layers, hidden, heads)
    assert (shapes.kv_heads, shapes.intermediate) == (kv_heads, ffn)
