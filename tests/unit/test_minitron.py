"""Minitron's scores against plain loops over the whole stock model."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from espalier.errors import InputError
from espalier.models.decoder import Decoder, Layer
from espalier.pruning.depth.cuts import CHUNK_TOKENS, Cut, chunk_tokens, cuts_of, layer_runs
from espalier.pruning.depth.depth_search import (
    Front,
    choose_block,
    order_of_removal,
    states_without,
)
from espalier.pruning.depth.measure import measure
from espalier.pruning.depth.samples import Sample
from espalier.pruning.layers.one_pass import one_pass
from methods.minitron.importance import (
    WidthImportance,
    most_important,
    most_important_heads,
    over_tokens,
    root,
)
from methods.minitron.spec import Aggregation, DepthScoreParameters
from tests.unit.tiny_checkpoints import make_checkpoint, make_context, make_ids

pytestmark = pytest.mark.minitron
HOW: tuple[Aggregation, ...] = ("mean", "l2", "var")


@given(st.integers(1, 7), st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True))
def test_the_walk_is_the_plain_loop(layers: int, counts: list[int]) -> None:
    """States are the list of layers run: nothing else can be mixed up."""
    cuts = cuts_of(layers, [count for count in counts if count <= layers])
    runs = 0

    def advance(layer: Layer, state: tuple[int, ...], cut: Cut | None) -> tuple[int, ...]:
        nonlocal runs
        runs += 1
        dropped = {} if cut is None else range(cut.first, cut.end)
        assert [*state] == [n for n in range(layer.number) if n not in dropped]
        return (*state, layer.number)

    modules = (Layer(n, nn.Identity(), lambda: None, lambda m, n, h: h) for n in range(layers))
    states = states_without(modules, Front(0, {None: ()}), [None, *cuts], advance)
    assert states.keys() == {None, *cuts}
    assert states[None] == tuple(range(layers))
    for cut in cuts:
        expected = [n for n in range(layers) if not cut.first <= n < cut.first + cut.count]
        assert states[cut] == tuple(expected)
    assert runs == layer_runs(layers, cuts)


def test_runs_of_the_walk_in_closed_form() -> None:
    layers, count = 32, 16
    left = layers - count
    assert layer_runs(layers, cuts_of(layers, [count])) == layers + left * (left + 1) // 2


def plain_log_likelihood(stock: Any, keep: list[int], sample: Sample) -> tuple[float, bool]:
    layers = stock.model.layers
    stock.model.layers = torch.nn.ModuleList([layers[i] for i in keep])
    with torch.inference_mode():
        logits = stock(sample.tokens[None, :-1], use_cache=False).logits[0]
    stock.model.layers = layers
    scored, targets = logits[-sample.scored :], sample.tokens[-sample.scored :]
    chosen = scored.log_softmax(-1).gather(1, targets[:, None]).sum()
    return float(chosen), bool((scored.argmax(-1) == targets).all())


@pytest.mark.parametrize("batch", [1, 3, None])
def test_log_likelihoods_without_each_block(tmp_path: Path, batch: int | None) -> None:
    """Samples of several lengths, of which the end is scored, as tasks ask for."""
    stock = make_checkpoint(tmp_path / "model", num_hidden_layers=4)
    generator = torch.Generator().manual_seed(3)
    lengths = [(9, 3), (20, 19), (5, 1), (20, 2), (12, 4), (3, 2)]
    samples = [Sample(torch.randint(0, 96, (n,), generator=generator), k) for n, k in lengths]
    cuts = cuts_of(4, [1, 2])
    context = make_context(tmp_path / "model", tmp_path / "out")
    whole, without = measure(context, Decoder(tmp_path / "model", "cpu"), samples, cuts, batch)
    for cut, found in [(Cut(0, 0), whole), *without.items()]:
        keep = [n for n in range(4) if not cut.first <= n < cut.end]
        for index, sample in enumerate(samples):
            expected, greedy = plain_log_likelihood(stock, keep, sample)
            assert found.log_likelihoods[index] == pytest.approx(expected, rel=1e-4)
            assert found.greedy[index] is greedy


def test_a_killed_measurement_goes_on_after_its_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path / "model", num_hidden_layers=3)
    samples = [Sample(row, 23) for row in make_ids(6)]
    decoder, cuts = Decoder(tmp_path / "model", "cpu"), cuts_of(3, [1])
    expected = measure(
        make_context(tmp_path / "model", tmp_path / "once"), decoder, samples, cuts, None
    )
    monkeypatch.setattr("espalier.pruning.depth.measure.chunk_tokens", lambda cuts, width: 48)
    context = make_context(tmp_path / "model", tmp_path / "killed")
    embed, calls = decoder.embed, itertools.count()

    def failing(ids: Tensor) -> Tensor:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return embed(ids)

    monkeypatch.setattr(decoder, "embed", failing)
    with pytest.raises(KeyboardInterrupt):
        measure(context, decoder, samples, cuts, None)
    done = next(calls)
    found = measure(context, decoder, samples, cuts, None)
    assert next(calls) - done == 2  # one chunk of three was left: one call, and this one
    assert found[0].log_likelihoods == pytest.approx(expected[0].log_likelihoods)
    assert found[1].keys() == expected[1].keys()


def test_chunks_are_bounded() -> None:
    assert chunk_tokens(1, 4) == CHUNK_TOKENS
    assert chunk_tokens(15, 8192) * 17 * 8192 <= 2 << 30


def test_which_block_goes() -> None:
    scores = [9.0, 3.0, 4.2, 3.9]
    assert choose_block(scores, 4.0, True, best=False) == 3
    assert choose_block(scores, 4.0, True, best=True) == 1
    assert choose_block(scores, 4.0, False, best=True) == 0
    assert order_of_removal(scores, 4.0, True, best=False) == [3, 2, 1, 0]
    assert choose_block([1.0, 3.0], 2.0, True, best=False) == 0  # of equals the first


@pytest.mark.parametrize("sequence", HOW)
@pytest.mark.parametrize("batch", HOW)
def test_importance_by_hand(tmp_path: Path, batch: Aggregation, sequence: Aggregation) -> None:
    stock = make_checkpoint(tmp_path / "model")
    ids, seen = make_ids(5), {"hidden": [], "intermediate": [], "heads": []}  # type: ignore[var-annotated]
    layer = stock.model.layers[1]
    layer.input_layernorm.register_forward_hook(lambda m, i, o: seen["hidden"].append(o))
    layer.post_attention_layernorm.register_forward_hook(lambda m, i, o: seen["hidden"].append(o))
    layer.mlp.down_proj.register_forward_pre_hook(lambda m, i: seen["intermediate"].append(i[0]))
    layer.self_attn.o_proj.register_forward_pre_hook(
        lambda m, i: seen["heads"].append(i[0].unflatten(-1, (4, 8)).square().sum(-1).sqrt())
    )
    with torch.inference_mode():
        stock(ids)
    sizes = {"hidden": 32, "intermediate": 44, "heads": 4}
    for size in (1, 4):
        context = make_context(tmp_path / "model", tmp_path / f"out{size}")
        observer = WidthImportance(sizes, 8, batch, sequence)
        record = one_pass(context, Decoder(tmp_path / "model", "cpu"), ids, size, observer)[1]
        for site, activations in seen.items():
            samples = torch.cat(activations).double()  # [S (twice for the norms), T, C]
            tokens = {
                "mean": samples.abs().mean(1),
                "l2": samples.norm(dim=1),
                "var": samples.var(1, unbiased=False),
            }[sequence]
            expected = {
                "mean": tokens.mean(0),
                "l2": tokens.norm(dim=0),
                "var": tokens.var(0, unbiased=False),
            }[batch]
            found = root(torch.tensor(record[site], dtype=torch.float64), batch)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_aggregations_over_tokens_do_not_depend_on_the_batch() -> None:
    activations = torch.randn(4, 7, 3)
    for how in HOW:
        rows = torch.cat([over_tokens(row[None], how) for row in activations])
        torch.testing.assert_close(over_tokens(activations, how), rows)


@given(st.data())
def test_heads_are_the_best_that_gqa_allows(data: st.DataObject) -> None:
    groups, ratio = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    kept_groups, queries = data.draw(st.integers(1, groups)), data.draw(st.integers(1, ratio))
    values = data.draw(
        st.lists(
            st.integers(0, 1000), min_size=groups * ratio, max_size=groups * ratio, unique=True
        )
    )
    importance = torch.tensor(values, dtype=torch.float64)
    heads, kept = most_important_heads(importance, kept_groups * queries, kept_groups, groups)
    assert len(heads) == kept_groups * queries == len(set(heads))
    # Query heads of one key-value head stand together, in the order of the key-value heads.
    assert [head // ratio for head in heads] == [group for group in kept for _ in range(queries)]
    best = max(
        sum(sum(sorted(values[g * ratio : (g + 1) * ratio])[-queries:]) for g in chosen)
        for chosen in itertools.combinations(range(groups), kept_groups)
    )
    assert sum(values[head] for head in heads) == best


def test_order_of_importance() -> None:
    assert most_important(torch.tensor([1.0, 3.0, 3.0, 2.0]), 3) == [1, 2, 3]


def test_blocks_of_the_layers_left() -> None:
    parameters = DepthScoreParameters.from_assignments({"LAYERS": "31, 24,16"})
    assert parameters.blocks(32) == [1, 8, 16]
    assert parameters.label() == "ppl-31-24-16"
    assert DepthScoreParameters.from_assignments({}).blocks(32) == [1]
    with pytest.raises(InputError, match="LAYERS=31 layers cannot be left of 16"):
        parameters.blocks(16)
    with pytest.raises(InputError, match="LAYERS=half is not a number of layers"):
        DepthScoreParameters.from_assignments({"LAYERS": "half"})
