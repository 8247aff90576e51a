"""LLM-Pruner's choice: what goes together, how much is left, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.structured.units import LayerUnits
from methods.llm_pruner.importance import rank_correlation
from methods.llm_pruner.left import Left, kept, kept_heads, pruned_layers, unroll
from methods.llm_pruner.selection import LayerImportance, largest, local, of_heads, over_layers
from methods.llm_pruner.spec import LlmPrunerParameters, ScoreLlmPrunerParameters

LLAMA_7B = Shapes(4096, 11008, 32, 32, 32, 128, 32000, 2048, False, 2)
LLAMA_31_8B = Shapes(4096, 14336, 32, 32, 8, 128, 128256, 8192, False, 2)
SMALL = Shapes(16, 12, 4, 8, 4, 2, 40, 64, False, 4)
CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8, "vocab_size": 512,
}  # fmt: skip


def parameters(**words: str) -> LlmPrunerParameters:
    return LlmPrunerParameters.from_assignments(words)


@pytest.mark.parametrize(
    ("shapes", "left"), [(LLAMA_7B, 5_422_977_024), (LLAMA_31_8B, 6_612_586_496)]
)
def test_published_counts_from_the_sizes_alone(shapes: Shapes, left: int) -> None:
    assert Left.of(parameters(SPARSITY="0.25"), shapes).parameters(shapes) == left
    given = parameters(SPARSITY="0.25", FIRST="4", LAST="30")
    assert Left.of(given, shapes).parameters(shapes) == left


@pytest.mark.parametrize(
    ("layers", "pruned"),
    [(32, range(4, 30)), (80, range(10, 75)), (16, range(2, 15)), (4, range(4)), (1, range(1))],
)
def test_the_published_layers_in_proportion(layers: int, pruned: range) -> None:
    assert pruned_layers(parameters(), layers) == pruned


@given(st.integers(1, 64), st.integers(1, 128), st.floats(0.01, 0.99))
def test_whole_heads_go_and_no_more_than_the_share(heads: int, size: int, share: float) -> None:
    gone = heads - kept_heads(heads, size, share)
    rows_gone = heads * size - int(heads * size * (1 - share) + 1e-9)
    assert gone * size <= rows_gone < (gone + 1) * size


def test_a_share_that_is_no_binary_fraction_loses_nothing() -> None:
    assert kept(10, 0.9) == 1  # 10 x (1 - 0.9) is 0.9999999999999998


@given(st.data())
def test_each_key_value_head_goes_with_those_that_read_it(data: st.DataObject) -> None:
    group, kv_heads = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    size = data.draw(st.integers(1, 3))
    shapes = replace(SMALL, heads=group * kv_heads, kv_heads=kv_heads, head_dim=size)
    queries = torch.rand(group * kv_heads * size, dtype=torch.float64)
    keys = torch.rand(kv_heads * size, dtype=torch.float64)
    found, folded = of_heads(queries, keys, shapes), of_heads(queries, keys, shapes, reference=True)
    for head in range(kv_heads):
        own = sum(float(keys[head * size + row]) for row in range(size))
        right = wrong = own
        for query in range(group * kv_heads):
            rows = sum(float(queries[query * size + row]) for row in range(size))
            right += rows if query // group == head else 0
            wrong += rows if query % kv_heads == head else 0
        assert float(found[head]) == pytest.approx(right)
        assert float(folded[head]) == pytest.approx(wrong)


def test_padding_is_never_kept() -> None:
    importance = LayerImportance(torch.tensor([9.0, 1, 2, 3]), torch.arange(12.0).flip(0))
    there = LayerUnits((1, 2, 3), tuple(range(2, 12)))
    found = local(importance, there, SMALL, 0.5)
    assert found == LayerUnits((2, 3), (2, 3, 4, 5, 6, 7))


@given(st.integers(0, 2**31), st.floats(0.05, 0.8), st.integers(0, 2))
def test_units_of_all_layers_compete_until_the_share_is_gone(
    seed: int, share: float, first: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    importance = [
        LayerImportance(torch.rand(4, generator=generator), torch.rand(12, generator=generator))
        for _ in range(4)
    ]
    whole = [LayerUnits(tuple(range(4)), tuple(range(12)))] * 4
    layers = range(first, 4)
    found = over_layers(importance, whole, layers, SMALL, share)
    assert found[:first] == whole[:first]
    head_size, neuron_size = 2 * 3 * SMALL.head_dim * SMALL.hidden, 3 * SMALL.hidden
    gone = sum(
        head_size * (4 - len(units.kv_heads)) + neuron_size * (12 - len(units.neurons))
        for units in found
    )
    most = len(layers) * (3 * head_size + 11 * neuron_size)  # the best head and neuron stay
    target = min(share * len(layers) * SMALL.layer_parameters, most)
    assert abs(gone - target) <= head_size
    dropped = [
        float(values[place]) / size
        for layer in layers
        for values, left, size in (
            (importance[layer].heads, found[layer].kv_heads, head_size),
            (importance[layer].neurons, found[layer].neurons, neuron_size),
        )
        for place in range(len(values))
        if place not in left
    ]
    stayed = [
        float(values[place]) / size
        for layer in layers
        for values, left, size in (
            (importance[layer].heads, found[layer].kv_heads, head_size),
            (importance[layer].neurons, found[layer].neurons, neuron_size),
        )
        for place in left
        if place != int(values.argmax())
    ]
    assert not dropped or not stayed or max(dropped) <= min(stayed)


def test_of_equals_the_later_stay() -> None:
    assert largest(torch.ones(5), range(5), 2) == (3, 4)


def test_steps_end_where_one_does() -> None:
    """Of the axis that a share counts from when it was whole, and of channels alike."""
    for words in ({"SPARSITY": "0.5"}, {"MODE": "channel", "SPARSITY": "0.5"}):
        once = unroll(parameters(**words), CONFIG)
        steps = unroll(parameters(**words, STEPS="4"), CONFIG)
        assert len(steps.steps) == 4
        assert steps.configs[-1] == once.configs[-1]
    last, hidden = steps.steps, 64
    for step in last:
        hidden = Left.of(step, replace(Shapes.of(CONFIG), hidden=hidden)).hidden
    assert hidden == 32


def test_rank_correlation_is_spearman_s() -> None:
    left = torch.tensor([1.0, 5.0, 2.0, 9.0])
    assert rank_correlation(left, left.exp()) == pytest.approx(1)
    assert rank_correlation(left, -left) == pytest.approx(-1)
    assert rank_correlation(left, torch.tensor([2.0, 5.0, 1.0, 9.0])) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"FIRST": "3", "LAST": "3"}, "FIRST=3 is not before LAST=3"),
        ({"FIRST": "4", "LAST": "2"}, "FIRST=4 is not before LAST=2"),
        ({"IMPORTANCE": "random"}, "SEED"),
        ({"MODE": "layer"}, "LAYERS"),
        ({"MODE": "layer", "LAYERS": "2", "SPARSITY": "0.5"}, "SPARSITY has no use"),
        ({"MODE": "channel", "FIRST": "1"}, "FIRST has no use"),
        ({"MODE": "channel", "GLOBAL": "1"}, "GLOBAL has no use"),
        ({"LAYERS": "2"}, "LAYERS has no use"),
        ({"IMPORTANCE": "l1", "TAYLOR": "vectorize"}, "TAYLOR has no use"),
        ({"GLOBAL": "1", "REFERENCE": "1"}, "REFERENCE=1 has no GLOBAL=1"),
        ({"SPARSITY": "1"}, "SPARSITY=1"),
        ({"SPARSITY": "0"}, "SPARSITY=0"),
    ],
)
def test_words_that_do_not_hold(words: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parameters(**words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"SPARSITY": "0.99"}, "leaves a layer no key-value head of 4"),
        ({"FIRST": "5"}, "none of a model of 5"),
        ({"LAST": "9"}, "none of a model of 5"),
        ({"MODE": "channel", "SPARSITY": "0.05"}, "removes no channel"),
        ({"MODE": "layer", "LAYERS": "5"}, "cannot be left of 5"),
    ],
)
def test_what_the_model_cannot_give(words: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        unroll(parameters(**words), CONFIG)


def test_magnitudes_see_no_tokens() -> None:
    with pytest.raises(InputError, match="leave out SAMPLES"):
        ScoreLlmPrunerParameters.from_assignments({"IMPORTANCE": "magnitude", "SAMPLES": "3"})


def test_parameters_survive_a_manifest() -> None:
    for words in ({"MODE": "layer", "LAYERS": "2"}, {"IMPORTANCE": "l1"}, {"GLOBAL": "1"}):
        given = parameters(**words)
        assert LlmPrunerParameters.model_validate(given.model_dump(mode="json")) == given
