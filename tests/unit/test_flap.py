"""FLAP against formulas and plain loops in float64."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from torch import Tensor

from espalier.contract.progress import Progress
from espalier.contract.pruned import Padded
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.compact import load_compact
from espalier.models.loading import load_stock
from espalier.models.shapes import Shapes, read_config
from espalier.models.zeros import row_blocks
from espalier.pruning.structured.padded import write_padded
from espalier.pruning.structured.target import same_share
from espalier.pruning.structured.units import LayerUnits
from methods.flap.algorithm import (
    Choice,
    Scores,
    adaptive,
    column_facts,
    compensation,
    metric_of,
    select,
    standardized,
    unit_scores,
)
from methods.flap.biases import means_as_biases
from methods.flap.counts import Costs, Counts, manual_by_layer, manual_of_all, same_widths
from methods.flap.spec import FlapParameters, FlapScoreParameters, check, unroll
from methods.flap.statistics import InputStatistics
from tests.manifests import mark_pruned
from tests.tiny import SHAPE, tiny_llama
from tests.unit.tiny_checkpoints import load_all
from training.compaction import compact
from training.compaction.spec import CompactParameters

SHAPES = Shapes(
    hidden=12, intermediate=9, layers=3, heads=6, kv_heads=3, head_dim=4,
    vocabulary=96, positions=64, tied=True, item_bytes=4,
)  # fmt: skip
"""Two query heads a group; 24 inputs of o_proj where the hidden state has 12."""
STORIES = Shapes(
    hidden=64, intermediate=172, layers=5, heads=8, kv_heads=4, head_dim=8,
    vocabulary=512, positions=512, tied=True, item_bytes=4,
)  # fmt: skip
QUERIES = SHAPES.heads * SHAPES.head_dim


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_formulas(samples: Tensor) -> dict[str, list[float]]:
    """Of samples [N, T, C], a feature at a time and with plain numbers."""
    found: dict[str, list[float]] = {"mean": [], "running": [], "exact": [], "squares": []}
    count, tokens, features = samples.shape
    for j in range(features):
        rows = [[float(x) for x in sample[:, j]] for sample in samples]
        means = [sum(row) / tokens for row in rows]
        running = 0.0
        for k in range(2, count + 1):
            m = sum(means[:k]) / k
            running += (k - 1) / k * sum((x - m) ** 2 for x in rows[k - 1])
        every = [x for row in rows for x in row]
        mean = sum(every) / len(every)
        found["mean"].append(mean)
        found["running"].append(running / (count - 1))
        found["exact"].append(sum((x - mean) ** 2 for x in every) / (len(every) - 1))
        found["squares"].append(sum(x * x for x in every) / count)
    return found


@given(st.integers(0, 99), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_statistics_are_the_closed_forms(seed: int, batches: list[int]) -> None:
    batches[0] += 1
    inputs = [3 + random(seed + i, size, 7, 5) for i, size in enumerate(batches)]
    statistic = InputStatistics(5, "cpu")
    for batch in inputs:
        statistic.add(batch.float())
    expected = by_formulas(torch.cat(inputs).float().double())
    for name, values in statistic.values().items():
        assert values.dtype == torch.float32
        assert values.tolist() == pytest.approx(expected[name], rel=2e-5), name


@given(st.integers(0, 99))
def test_batches_give_the_same_statistics_bit_for_bit(seed: int) -> None:
    inputs = random(seed, 6, 7, 5).float()
    found = []
    for size in (1, 4, 6):
        statistic = InputStatistics(5, "cpu")
        for batch in inputs.split(size):
            statistic.add(batch)
        found.append(statistic.values())
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_a_large_mean_does_not_drown_a_small_fluctuation() -> None:
    inputs = 1000 + random(0, 8, 16, 3) * 0.01
    statistic = InputStatistics(3, "cpu")
    statistic.add(inputs.float())
    expected = inputs.float().double().flatten(0, 1).var(dim=0)
    assert statistic.values()["exact"].tolist() == pytest.approx(expected.tolist(), rel=1e-3)


def test_what_cannot_be_measured() -> None:
    statistic = InputStatistics(2, "cpu")
    with pytest.raises(InputError, match="no tokens reached the inputs"):
        statistic.values()
    statistic.add(torch.ones(1, 3, 2))
    with pytest.raises(InputError, match=r"one sample does not fluctuate.*SAMPLES=2 or more"):
        statistic.values()
    statistic.add(torch.full((1, 3, 2), 1e30))
    with pytest.raises(InputError, match="squares of activations became NaN or infinite"):
        statistic.values()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_columns_and_metrics(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    monkeypatch.setattr(row_blocks, "__defaults__", (8,))  # some rows at a time
    weight = random(1, 11, 4).to(dtype)
    facts = column_facts(weight)
    columns = [[float(x) for x in column] for column in weight.T]
    squares = [sum(x * x for x in column) for column in columns]
    sizes = [sum(map(abs, column)) / 11 for column in columns]
    assert facts["weight_squares"].tolist() == pytest.approx(squares, rel=1e-6)
    assert facts["weight_sizes"].tolist() == pytest.approx(sizes, rel=1e-6)
    running, exact, norms = (random(seed, 4).square().tolist() for seed in (2, 3, 4))
    figures = {"running": running, "exact": exact, "squares": norms}
    given = {name: torch.tensor([values]) for name, values in figures.items()}
    given |= {name: values[None] for name, values in facts.items()}
    for metric, fluctuation, expected in (
        ("ifv", "running", running),
        ("ifv", "exact", exact),
        ("wifv", "running", [f * w for f, w in zip(running, squares, strict=True)]),
        ("wifv", "exact", [f * w for f, w in zip(exact, squares, strict=True)]),
        ("wifn", "running", [w * s**0.5 for w, s in zip(sizes, norms, strict=True)]),
    ):
        found = metric_of(given, metric, fluctuation)  # type: ignore[arg-type]
        assert found[0].tolist() == pytest.approx(expected, rel=1e-6), (metric, fluctuation)


def metrics_of(seed: int, neurons: int = 9) -> Scores:
    """Of three layers."""
    attention, mlp = random(seed, 3, QUERIES).square(), random(seed + 1, 3, neurons).square()
    return Scores(list(attention), list(mlp))


def head_scores(metric: list[Tensor], z: bool) -> list[list[float]]:
    """Groups' scores of o_proj's metric [L, Q], loop by loop."""
    layers = []
    for row in (values.square().tolist() for values in metric):
        if z:
            mean = sum(row) / len(row)
            std = (sum((x - mean) ** 2 for x in row) / (len(row) - 1)) ** 0.5
            row = [(x - mean) / std for x in row]  # noqa: PLW2901 - the row, made comparable
        heads = [row[4 * h : 4 * h + 4] for h in range(6)]
        scores = [sum(head) / 4 if z else sum(head) for head in heads]
        layers.append([(scores[2 * g] + scores[2 * g + 1]) / 2 for g in range(3)])
    return layers


def neuron_scores(metric: list[Tensor], z: bool) -> list[list[float]]:
    layers = []
    for row in (values.tolist() for values in metric):
        mean = sum(row) / len(row)
        std = (sum((x - mean) ** 2 for x in row) / (len(row) - 1)) ** 0.5
        layers.append([(x - mean) / std for x in row] if z else row)
    return layers


Thresholds = tuple[float, float]


def at_least(values: Iterable[float], threshold: float) -> tuple[int, ...]:
    return tuple(i for i, value in enumerate(values) if value >= threshold)


def above(values: Iterable[float], threshold: float) -> tuple[int, ...]:
    return tuple(i for i, value in enumerate(values) if value > threshold)


def by_thresholds(
    heads: list[list[float]], neurons: list[list[float]], choice: Choice, shapes: Shapes
) -> list[LayerUnits]:
    """What the formulas of section 1 keep: at or above, or strictly above, a value in a list."""
    ratio, remove = choice.sparsity, choice.remove_heads or 0
    width, hidden = shapes.heads * shapes.head_dim, shapes.hidden
    layers, kv = shapes.layers, shapes.kv_heads
    inner = 3 * shapes.intermediate * hidden
    attention = 2 * hidden * width + 2 * hidden * kv * shapes.head_dim
    group, head_weight = (2 * 2 + 2) * hidden * shapes.head_dim, 6 * shapes.head_dim / 3
    if choice.reference:
        attention, group, head_weight = 4 * hidden**2, 4 * hidden * shapes.head_dim, 170.0
    if choice.structure == "ul-um":
        places = [int(ratio * kv)] * layers, [int(ratio * shapes.intermediate)] * layers
    else:
        left = ratio * (inner + attention) - group * (remove // layers)
        places = [remove // layers] * layers, [int(left / (3 * hidden))] * layers
    if choice.structure.startswith("ul"):
        return [
            LayerUnits(at_least(h, sorted(h)[a]), at_least(n, sorted(n)[b]))
            for h, n, a, b in zip(heads, neurons, *places, strict=True)
        ]
    all_heads, all_neurons = ([x for row in rows for x in row] for rows in (heads, neurons))
    if choice.structure == "al-mm":
        count = int((layers * ratio * (inner + attention) - group * remove) / (3 * hidden))
        cut_heads = sorted(all_heads)[remove - 1] if remove else float("-inf")
        cut_neurons = sorted(all_neurons)[count - 1] if count else float("-inf")
    else:
        listed = [(x, head_weight) for x in all_heads] + [(x, 1.0) for x in all_neurons]
        listed.sort(key=lambda pair: -pair[0])
        target, summed, best = sum(w for _, w in listed) * (1 - ratio), 0.0, []
        for score, weight in listed:
            summed += weight
            best.append((abs(summed - target), score))
        cut_heads = cut_neurons = min(best, key=lambda pair: pair[0])[1]
    return [
        LayerUnits(above(h, cut_heads), above(n, cut_neurons))
        for h, n in zip(heads, neurons, strict=True)
    ]


@given(
    st.integers(0, 999),
    st.sampled_from(["al-am", "ul-um", "ul-mm", "al-mm"]),
    st.floats(0.15, 0.7),
    st.integers(0, 5),
    st.booleans(),
)
def test_what_is_kept_is_what_thresholds_keep(
    seed: int, structure: Any, sparsity: float, remove: int, reference: bool
) -> None:
    shapes = replace(SHAPES, intermediate=40) if structure.endswith("mm") else SHAPES
    metrics = metrics_of(seed, shapes.intermediate)
    choice = Choice(structure, sparsity, remove if structure.endswith("mm") else None, reference)
    z = structure.startswith("al")
    scores = unit_scores(metrics, structure, shapes)
    heads, neurons = head_scores(metrics.attention, z), neuron_scores(metrics.mlp, z)
    for found, expected in ((scores.attention, heads), (scores.mlp, neurons)):
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.tolist() == pytest.approx(theirs)
    try:
        kept = select(scores, shapes, choice)
    except InputError as error:
        assert any(word in str(error) for word in ("leaves no", "removes more"))
        event("refused")
        return
    assert kept == by_thresholds(heads, neurons, choice, shapes)


@given(st.integers(0, 999), st.floats(0.1, 0.9))
def test_the_adaptive_structure_reaches_the_sparsity(seed: int, sparsity: float) -> None:
    """Within half a group and the unit at the cut: with the true weight of a group."""
    metrics = metrics_of(seed)
    costs = Costs.of(SHAPES, reference=False)
    kept = adaptive(unit_scores(metrics, "al-am", SHAPES), sparsity, costs.head_weight)
    left = sum(len(u.kv_heads) * costs.group + len(u.neurons) * costs.neuron for u in kept)
    whole = SHAPES.layers * costs.layer(Counts(3, 9))
    assert whole == SHAPES.layers * SHAPES.layer_parameters
    assert abs(left - whole * (1 - sparsity)) <= 1.5 * costs.group


def test_of_equals_the_first_go_and_nothing_is_divided_by_zero() -> None:
    equal = Scores(list(torch.ones(3, QUERIES).double()), list(torch.ones(3, 9).double()))
    assert not standardized(equal.mlp[0]).any()
    kept = select(unit_scores(equal, "ul-um", SHAPES), SHAPES, Choice("ul-um", 0.4))
    assert kept == [LayerUnits((1, 2), (3, 4, 5, 6, 7, 8))] * 3
    broken = Scores(list(torch.full((3, QUERIES), torch.inf).double()), equal.mlp)
    with pytest.raises(InputError, match="scores became NaN or infinite"):
        unit_scores(broken, "ul-um", SHAPES)


def test_what_a_group_weighs() -> None:
    assert Costs.of(STORIES, reference=False).head_weight == 16
    assert Costs.of(STORIES, reference=True).head_weight == 170
    llama = replace(STORIES, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128)
    assert Costs.of(llama, reference=False).head_weight == pytest.approx(426.67, abs=0.01)


@pytest.mark.parametrize(
    ("sparsity", "heads", "by_layer", "reference", "expected"),
    [
        (0.2, 4, True, True, (0, 51)), (0.2, 4, True, False, (0, 47)),
        (0.5, 10, True, True, (2, 107)), (0.5, 10, True, False, (2, 86)),
        (0.2, 4, False, True, (4, 214)), (0.2, 4, False, False, (4, 172)),
        (0.5, 10, False, True, (10, 536)), (0.5, 10, False, False, (10, 430)),
        (0.5, -1, False, True, (19, 654)), (0.5, -1, True, True, (3, 139)),
    ],
)  # fmt: skip
def test_counts(
    sparsity: float, heads: int, by_layer: bool, reference: bool, expected: tuple[int, int]
) -> None:
    """The reference's figures and the true ones; -1 leaves one head, as theirs does."""
    there, costs = same_widths(STORIES), Costs.of(STORIES, reference=reference)
    if by_layer:
        assert manual_by_layer(there, costs, sparsity, heads) == [Counts(*expected)] * 5
    else:
        assert manual_of_all(there, costs, sparsity, heads) == Counts(*expected)


@pytest.mark.parametrize(
    ("structure", "sparsity", "heads", "says"),
    [
        ("al-mm", 0.5, 20, "REMOVE_HEADS=20 leaves no head, where there are 20 key-value heads"),
        ("ul-mm", 0.5, 22, "REMOVE_HEADS=22 leaves no head.*4 key-value heads to take 4 from"),
        ("al-mm", 0.1, 12, r"REMOVE_HEADS=12 removes more than SPARSITY=0\.1 of the weights"),
        ("ul-mm", 0.9, 0, "SPARSITY=0.9 with REMOVE_HEADS=0 leaves no neuron"),
        ("ul-mm", 0.001, 4, "nothing would be removed by SPARSITY=0.001 with REMOVE_HEADS=4"),
        ("ul-um", 0.004, None, "is less than one of either: nothing would be removed"),
    ],
)
def test_what_cannot_be_removed(
    structure: Any, sparsity: float, heads: int | None, says: str
) -> None:
    config = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512,
    }  # fmt: skip
    parameters = FlapParameters(structure=structure, sparsity=sparsity, remove_heads=heads)
    with pytest.raises(InputError, match=says):
        unroll(parameters, config)


def test_a_model_without_heads_is_none() -> None:
    scores = Scores([-torch.ones(3).double()] * 3, list(torch.arange(27.0).view(3, 9).double()))
    with pytest.raises(InputError, match=r"SPARSITY=0\.8 leaves no head in any layer"):
        select(scores, SHAPES, Choice("al-am", 0.8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compensation_is_the_lost_mean(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    monkeypatch.setattr(row_blocks, "__defaults__", (8,))
    weight, mean = random(5, 7, 4).to(dtype), random(6, 4)
    expected = [sum(float(row[j]) * float(mean[j]) for j in (1, 3)) for row in weight]
    found = compensation(weight, mean.float(), torch.tensor([0, 2]))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert not compensation(weight, mean.float(), torch.arange(4)).any()


def test_parameters() -> None:
    of = FlapParameters.from_assignments
    assert of({}).label() == "0.5"
    words = {"METRIC": "wifn", "STRUCTURE": "ul-mm", "REMOVE_HEADS": "10", "BIAS": "0"}
    assert of({**words, "REFERENCE": "1"}).label() == "wifn-ul-mm-0.5-heads10-nobias-reference"
    assert of({"FLUCTUATION": "exact", "SPARSITY": "0.2"}).label() == "0.2-exact"
    for words, says in (
        ({"STRUCTURE": "al-mm"}, "STRUCTURE=al-mm needs REMOVE_HEADS"),
        ({"REMOVE_HEADS": "3"}, "STRUCTURE=al-am finds by itself how many heads go"),
        ({"STRUCTURE": "ul-um", "REMOVE_HEADS": "0"}, "leave out REMOVE_HEADS=0"),
        ({"STRUCTURE": "al-mm", "REMOVE_HEADS": "-1"}, "REMOVE_HEADS=-1 is no number of heads"),
        ({"METRIC": "wanda"}, "METRIC=wanda should be 'wifv', 'ifv' or 'wifn'"),
        ({"SPARSITY": "1"}, "SPARSITY=1 should be less than 1"),
    ):
        with pytest.raises(InputError, match=says):
            of(words)
    scoring = FlapScoreParameters.from_assignments({})
    assert (scoring.samples, scoring.seqlen, scoring.label()) == (1024, None, "1024")
    drawn = FlapScoreParameters.from_assignments({"SEED": "3", "SEQLEN": "64"})
    assert drawn.label() == "1024x64-seed3"
    with pytest.raises(InputError, match="SAMPLES=1 should be greater than or equal to 2"):
        FlapScoreParameters.from_assignments({"SAMPLES": "1"})


def test_families_without_such_biases() -> None:
    for family in ("mistral", "qwen2", "qwen3"):
        config = {**SHAPE, "model_type": family}
        with pytest.raises(InputError, match=f"stock {family} models have no bias.*give BIAS=0"):
            check(FlapParameters(), config)
        check(FlapParameters(bias=False), config)
    left = unroll(FlapParameters(), {**SHAPE, "model_type": "llama"}).configs[0]
    assert (left["attention_bias"], left["mlp_bias"]) == (True, True)
    assert unroll(FlapParameters(), {}).configs == ()


def test_the_same_share_of_each() -> None:
    assert same_share(4, 172, 0.2) == (0, 34)
    assert same_share(4, 172, 0.5) == (2, 86)


def test_true_widths_keep_the_biases(tmp_path: Path) -> None:
    """A layer of which no head is left, one without neurons, and one that lost some of each."""
    model, padded, small = (tmp_path / name for name in ("model", "padded", "compact"))
    tiny_llama(model, initializer_range=0.3)
    for folder in (padded, small):
        folder.mkdir()
    shapes = Shapes.of(read_config(model))
    widths = {"attn": shapes.heads * shapes.head_dim, "mlp": shapes.intermediate}
    figures = {s: {"mean": random(7, 3, width).float()} for s, width in widths.items()}
    kept = [LayerUnits((), (0, 3)), LayerUnits((0, 1), ()), LayerUnits((1,), (1, 2, 40))]
    added = means_as_biases(model, figures, kept, shapes)
    account = write_padded(model, padded, kept, Progress(None), added)
    assert isinstance(account, Padded)
    mark_pruned(padded, account)
    context = StageContext({"model": padded}, small, tmp_path, "cpu", Progress(None))
    compact.run(context, CompactParameters(seqlen=12))
    stored, whole = load_all(small), load_all(padded)
    assert "model.layers.0.self_attn.q_proj.weight" not in stored
    for name in ("model.layers.0.self_attn.o_proj.bias", "model.layers.1.mlp.down_proj.bias"):
        assert stored[name].any()
        assert torch.equal(stored[name], whole[name])
    ids = torch.arange(2, 40)[None]
    with torch.inference_mode():
        narrow, stock = load_compact(small)(ids).logits, load_stock(padded)(ids).logits
    torch.testing.assert_close(narrow, stock, rtol=1e-4, atol=1e-4)
