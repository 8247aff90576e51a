"""The typed account of a pruning: read in its older form, true to itself, true on disk."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from espalier.contract.made import Made
from espalier.contract.manifest import pruning_of
from espalier.contract.progress import Progress
from espalier.contract.pruned import (
    Foreign,
    Masked,
    Padded,
    PaddedLayer,
    Pruned,
    Uniform,
    as_pruned,
)
from espalier.contract.stage import Outcome
from espalier.errors import InputError
from espalier.models.axes import LAYER_AXES, OUTER_AXES
from espalier.models.gates import check_checkpoint, describe_model
from espalier.models.padding import paddings
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.structured.record import uniform
from espalier.pruning.structured.restructure import Selection, restructure
from tests.tiny_pruned import (
    FOREIGN,
    HEAD_DIM,
    PADDED,
    padding_by_hand,
    tiny_foreign,
    tiny_padded,
)
from tests.unit.tiny_checkpoints import load_all, make_checkpoint, rewrite

MASKED = Masked(pattern="2:4", target=0.5, achieved=0.5)
OLDER_MASKED = {
    "structure": "N:M",
    "pattern": "2:4",
    "target": 0.5,
    "attainable": 0.5,
    "achieved": 0.5,
    "layers": [
        {"matrices": {"mlp.up_proj": 0.5}, "layer": 0, "sparsity": 0.5, "zeros": 8},
        {
            "matrices": {},
            "layer": 1,
            "sparsity": 0.5,
            "zeros": 8,
            "notes": {"mlp.up_proj": {"d": 1}},
        },
    ],
    "policy": "preserve",
    "products": "native",
}
OLDER_UNIFORM = {
    "structure": "depth",
    "target": {"layers": 2, "hidden": 32, "intermediate": 48, "heads": 4, "kv_heads": 2},
    "achieved": 0.3,
    "policy": "densify",
    "kept_layers": [0, 2],
    "dropped_layers": [1],
    "dropped_by_influence": [1],
}
"""As manifests held them before an account had a kind."""


@pytest.mark.parametrize("account", [MASKED, PADDED, FOREIGN, as_pruned(OLDER_UNIFORM)])
def test_an_account_comes_back_from_json(account: Pruned) -> None:
    assert as_pruned(json.loads(account.model_dump_json())) == account
    made = Made.of(
        Outcome(pruning=account), environment={}, started="", seconds=1.0, peak_memory_bytes=1
    )
    assert Made.model_validate_json(made.model_dump_json()).as_outcome().pruning == account
    assert made.as_outcome().pruning == account


def test_manifests_of_before_the_kinds() -> None:
    masked, shorter = as_pruned(OLDER_MASKED), as_pruned(OLDER_UNIFORM)
    assert isinstance(masked, Masked)
    assert (masked.pattern, masked.achieved, masked.layers[1].notes) == (
        "2:4",
        0.5,
        {"mlp.up_proj": {"d": 1}},
    )
    assert isinstance(shorter, Uniform)
    assert shorter.before is not None
    assert (shorter.before.layers, shorter.after.layers, shorter.structure) == (3, 2, "depth")
    assert shorter.kept.layers == (0, 2)
    assert shorter.dropped_layers == shorter.removal_order == (1,)
    narrower = {
        **OLDER_UNIFORM,
        "kept_hidden": [3, 1],
        "kept_heads": [[1], [0]],
        "kept_kv_heads": [[0], [0]],
    }
    both = as_pruned(narrower)
    assert isinstance(both, Uniform)
    assert both.before is None  # how wide the parent was is not said there
    assert (both.structure, both.kept.heads) == ("depth+width", ((1,), (0,)))
    assert as_pruned(None) is None
    with pytest.raises(ValidationError):
        as_pruned({"what": "else"})


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ({"intermediate": 47}, "its padding leaves 36"),
        ({"padding": {"intermediate": ((40, 48), (3, 7))}}, "ascending ranges"),
        ({"padding": {"intermediate": ((3, 7), (44, 52))}}, "ascending ranges"),
        ({"heads": 4, "padding": {"heads": ()}}, "other numbers are kept"),
        ({"intermediate": 32, "padding": {"intermediate": ((32, 48),)}}, "other numbers are kept"),
    ],
)
def test_an_account_that_contradicts_itself(layer: dict[str, Any], says: str) -> None:
    layers = [each.model_dump() for each in PADDED.layers]
    padding = layers[1]["padding"] | layer.get("padding", {})
    layers[1] |= layer | {"padding": padding}
    with pytest.raises(ValidationError, match=says):
        as_pruned({**PADDED.model_dump(), "layers": layers})


def test_a_query_head_that_reads_padding() -> None:
    layers = [each.model_dump() for each in PADDED.layers]
    layers[1] |= {"heads": 4, "padding": layers[1]["padding"] | {"heads": ()}}
    with pytest.raises(ValidationError, match="head 2 of layer 1 reads"):
        as_pruned({**PADDED.model_dump(), "kept": None, "layers": layers})


def test_every_layer_has_its_widths() -> None:
    with pytest.raises(ValidationError, match="2 widths for 3 layers"):
        as_pruned({**PADDED.model_dump(), "layers": [x.model_dump() for x in PADDED.layers[:2]]})


@pytest.mark.parametrize("bias", [False, True])
def test_places_of_padding_by_hand(tmp_path: Path, bias: bool) -> None:
    model = tiny_padded(tmp_path / "m", attention_bias=bias)
    weights, expected = load_all(model), padding_by_hand()
    found = list(paddings(PADDED, {n: tuple(w.shape) for n, w in weights.items()}, HEAD_DIM))
    assert {each.name for each in found} == {name for name in expected if name in weights}
    for each in found:
        where = torch.zeros(each.shape, dtype=torch.bool)
        for dimension, ranges in enumerate(each.ranges):
            for first, end in ranges:
                where.narrow(dimension, first, end - first).fill_(True)
        assert torch.equal(where, expected[each.name]), each.name
        assert each.entries == int(expected[each.name].sum())


def test_a_padded_checkpoint_passes_and_is_counted_without_its_padding(tmp_path: Path) -> None:
    model = tiny_padded(tmp_path / "m", attention_bias=True)
    assert pruning_of(model) == PADDED
    check_checkpoint(model, pruning=PADDED)
    described = describe_model(model, pruning=PADDED)
    weights, padding = load_all(model), padding_by_hand()
    assert described["padding"] == sum(int(where.sum()) for where in padding.values())
    assert described["parameters"] == sum(weight.numel() for weight in weights.values())
    assert described["nonzero"] <= described["parameters"] - described["padding"]


@pytest.mark.parametrize("name", sorted(padding_by_hand()))
def test_a_single_weight_in_the_padding_is_found(tmp_path: Path, name: str) -> None:
    model = tiny_padded(tmp_path / "m", attention_bias=True)
    weight = load_all(model)[name]
    weight.view(-1)[padding_by_hand()[name].contiguous().view(-1).nonzero()[-1]] = 1e-30
    rewrite(model, **{name.replace(".", "__"): weight})
    with pytest.raises(InputError, match=f"{name} is not zero in its padding"):
        check_checkpoint(model, pruning=PADDED)


def test_padding_of_another_shape(tmp_path: Path) -> None:
    model = tiny_padded(tmp_path / "m")
    layers = tuple(
        PaddedLayer(heads=4, kv_heads=2, intermediate=40, padding={"intermediate": ((40, 48),)})
        for _ in range(2)
    )
    fewer = Padded(
        before=PADDED.before,
        after=PADDED.after.model_copy(update={"layers": 2}),
        achieved=0.1,
        layers=layers,
    )
    with pytest.raises(InputError, match="has 3 layers but the target was 2"):
        check_checkpoint(model, pruning=fewer)


def test_a_foreign_checkpoint_is_checked_as_far_as_it_is_known(tmp_path: Path) -> None:
    model = tiny_foreign(tmp_path / "m")
    assert isinstance(pruning_of(model), Foreign)
    assert check_checkpoint(model, pruning=FOREIGN)["finite"]
    described = describe_model(model, pruning=FOREIGN)
    assert described["parameters"] == sum(weight.numel() for weight in load_all(model).values())
    rewrite(model, lm_head__weight=torch.full((288, 32), torch.nan))
    with pytest.raises(InputError, match=r"lm_head\.weight holds NaN"):
        check_checkpoint(model, pruning=FOREIGN)


def test_a_foreign_checkpoint_that_stock_loaders_would_take_for_theirs(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    with pytest.raises(InputError, match="stock loaders would misread"):
        check_checkpoint(tmp_path, pruning=FOREIGN)


def test_a_child_is_its_parent_at_the_kept_indices(tmp_path: Path) -> None:
    """A later reader finds every tensor of the child in the parent by the account alone."""
    make_checkpoint(tmp_path / "parent", num_hidden_layers=3, attention_bias=True)
    before = Shapes.of(read_config(tmp_path / "parent"))
    kept = Selection(
        [0, 2], [5, 1, 30, 8, 9, 10, 11, 12], {0: [7, 3], 1: [0, 1], 2: [40, 2]},
        {0: [3, 2], 1: [0, 1], 2: [0, 1]}, {0: [1], 1: [0], 2: [0]},
    )  # fmt: skip
    after = replace(before, layers=2, hidden=8, intermediate=2, heads=2, kv_heads=1)
    (tmp_path / "child").mkdir()
    restructure(tmp_path / "parent", tmp_path / "child", kept, after, Progress())
    written = json.loads(uniform(before, after, kept).model_dump_json())
    account = as_pruned(written)
    assert isinstance(account, Uniform)
    assert account.before is not None
    assert account.dropped_layers == (1,)
    parent, child = load_all(tmp_path / "parent"), load_all(tmp_path / "child")
    for name, tensor in child.items():
        source = parent[_name_there(name, account)]
        for dimension, indices in enumerate(_indices(name, account)):
            if indices is not None:
                source = source.index_select(dimension, torch.tensor(indices))
        assert torch.equal(tensor, source), name


def _name_there(name: str, account: Uniform) -> str:
    parts = name.split(".")
    if parts[1] == "layers":
        parts[2] = str(account.kept.layers[int(parts[2])])
    return ".".join(parts)


def _indices(name: str, account: Uniform) -> list[Any]:
    kept, parts = account.kept, name.split(".")
    if name in OUTER_AXES:
        return [{"hidden": kept.hidden}.get(axis) for axis in OUTER_AXES[name]]
    layer = int(parts[2])
    assert kept.heads and kept.kv_heads and kept.intermediate

    def whole(heads: tuple[int, ...]) -> list[int]:
        return [head * 8 + i for head in heads for i in range(8)]

    chosen: dict[str, Any] = {
        "hidden": kept.hidden,
        "intermediate": kept.intermediate[layer],
        "queries": whole(kept.heads[layer]),
        "keys": whole(kept.kv_heads[layer]),
    }
    return [chosen.get(axis) for axis in LAYER_AXES[".".join(parts[3:])]]
