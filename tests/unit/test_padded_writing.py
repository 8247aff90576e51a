"""Layers of different widths in one shape: stock loaders compute what the kept parts compute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espalier.contract.manifest import MANIFEST
from espalier.contract.progress import Progress
from espalier.contract.pruned import Padded, Uniform
from espalier.errors import InputError
from espalier.models.loading import load_stock
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.structured.padded import Addition, write_padded
from espalier.pruning.structured.units import LayerUnits, group_of, true_units
from tests.manifests import mark_pruned
from tests.tiny import tiny_llama
from tests.unit.tiny_checkpoints import load_all

LAYERS, KV_HEADS, GROUP, HEAD_DIM, NEURONS = 3, 4, 2, 4, 24
IDS = torch.arange(12)[None] % 60  # [1, T]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(
        tmp_path_factory.mktemp("parent"),
        num_hidden_layers=LAYERS, hidden_size=32, intermediate_size=NEURONS, head_dim=HEAD_DIM,
        num_attention_heads=KV_HEADS * GROUP, num_key_value_heads=KV_HEADS, initializer_range=0.3,
    )  # fmt: skip


def chosen(count: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(st.integers(0, count - 1)).map(lambda places: tuple(sorted(places)))


UNITS = st.builds(LayerUnits, chosen(KV_HEADS), chosen(NEURONS))
KEPT = st.lists(UNITS, min_size=LAYERS, max_size=LAYERS).filter(
    lambda kept: any(k.kv_heads for k in kept) and any(k.neurons for k in kept)
)


def zeroed_logits(model: Path, kept: list[LayerUnits]) -> Any:
    """Logits [1, T, V] of the model with all else zero in its place."""
    stock = load_stock(model, torch.float64)
    shapes = Shapes.of(read_config(model))
    with torch.no_grad():
        for layer, units in zip(stock.model.layers, kept, strict=True):
            queries = [q for head in units.kv_heads for q in group_of(head, shapes)]
            heads = torch.ones(shapes.heads, dtype=torch.bool)
            heads[queries] = False
            layer.self_attn.o_proj.weight[:, heads.repeat_interleave(shapes.head_dim)] = 0
            neurons = torch.ones(shapes.intermediate, dtype=torch.bool)
            neurons[list(units.neurons)] = False
            layer.mlp.down_proj.weight[:, neurons] = 0
        return stock(IDS).logits


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=KEPT)
def test_stock_logits_are_those_of_what_is_kept(
    parent: Path, kept: list[LayerUnits], tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = tmp_path_factory.mktemp("padded")
    account = write_padded(parent, output, kept, Progress(None))
    found = load_stock(output, torch.float64)(IDS).logits
    torch.testing.assert_close(found, zeroed_logits(parent, kept), atol=1e-6, rtol=1e-6)
    assert account.kept is not None
    assert account.kept.kv_heads == tuple(units.kv_heads for units in kept)
    assert account.kept.intermediate == tuple(units.neurons for units in kept)
    after = Shapes.of(read_config(output))
    assert after.intermediate == max(len(units.neurons) for units in kept)
    assert after.hidden % after.heads == 0
    same = {(len(k.kv_heads), len(k.neurons)) for k in kept} == {
        (after.kv_heads, after.intermediate)
    }
    assert isinstance(account, Uniform if same else Padded)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=KEPT, data=st.data())
def test_a_padded_parent_is_pruned_again(
    parent: Path, kept: list[LayerUnits], data: st.DataObject, tmp_path_factory: Any
) -> None:
    once, twice = tmp_path_factory.mktemp("once"), tmp_path_factory.mktemp("twice")
    first = write_padded(parent, once, kept, Progress(None))
    mark_pruned(once, first)
    units = true_units(once)
    assert [len(u.neurons) for u in units] == [len(k.neurons) for k in kept]
    again = [
        LayerUnits(
            tuple(p for p in u.kv_heads if data.draw(st.booleans())),
            tuple(p for p in u.neurons if data.draw(st.booleans())),
        )
        for u in units
    ]
    again[0] = units[0] if units[0].kv_heads and units[0].neurons else again[0]
    if not any(k.kv_heads for k in again) or not any(k.neurons for k in again):
        return
    account = write_padded(once, twice, again, Progress(None))
    found = load_stock(twice, torch.float64)(IDS).logits
    torch.testing.assert_close(found, zeroed_logits(once, again), atol=1e-6, rtol=1e-6)
    padded = isinstance(first, Padded)  # else the layers were alike, and it is a model like another
    assert account.before == (first.before if padded else first.after)
    assert account.kept is not None
    assert account.kept.intermediate == tuple(
        tuple(k.neurons[u.neurons.index(p)] if padded else p for p in a.neurons)
        for k, u, a in zip(kept, units, again, strict=True)
    )


def test_what_is_added_is_written_too(parent: Path, tmp_path: Path) -> None:
    kept = [LayerUnits((0, 1, 2, 3), tuple(range(size))) for size in (24, 10, 0)]
    biases = {
        f"model.layers.{layer}.mlp.down_proj.bias": torch.full((32,), float(layer))
        for layer in range(LAYERS)
    }
    output = tmp_path / "biased"
    output.mkdir()
    write_padded(parent, output, kept, Progress(None), Addition(biases, {"mlp_bias": True}))
    assert read_config(output)["mlp_bias"] is True
    found = load_all(output)
    assert all(torch.equal(found[name], bias) for name, bias in biases.items())
    for name, size in (("gate_proj", NEURONS), ("up_proj", NEURONS)):  # stock has them then
        assert torch.equal(found[f"model.layers.1.mlp.{name}.bias"], torch.zeros(size))
    assert torch.isfinite(load_stock(output, torch.float32)(IDS).logits).all()


@pytest.mark.every_image
def test_heads_divide_the_hidden_width_whatever_is_installed(parent: Path, tmp_path: Path) -> None:
    """Transformers 5 asks for it; before, 6 heads of a width of 32 would load."""
    kept = [LayerUnits((0, 2, 3), tuple(range(9)))] * LAYERS
    account = write_padded(parent, tmp_path, kept, Progress(None))
    assert isinstance(account, Padded)
    assert (account.after.heads, account.layers[0].heads) == (8, 6)


def test_nothing_left_is_refused(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is left"):
        write_padded(parent, tmp_path, [LayerUnits((), (1,))] * LAYERS, Progress(None))
    assert not (tmp_path / MANIFEST).exists()
