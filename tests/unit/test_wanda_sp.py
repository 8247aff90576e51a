"""Wanda-sp against plain loops in float64, and a whole model that is cut layer by layer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("matplotlib", reason="the stages draw")

from espalier.errors import InputError
from espalier.models.decoder import Decoder
from espalier.models.shapes import Shapes
from espalier.pruning.layers.walk import walk
from espalier.pruning.structured.units import LayerUnits, true_units
from methods.wanda_sp.algorithm import LayerScores, column_scores
from methods.wanda_sp.spec import WandaSpParameters, unroll
from methods.wanda_sp.stage import _Choosing
from tests.tiny import SHAPE
from tests.unit.tiny_checkpoints import make_checkpoint, make_context, make_ids

pytestmark = pytest.mark.minitron  # the stage draws

SHAPES = Shapes(
    hidden=12, intermediate=9, layers=3, heads=6, kv_heads=3, head_dim=4,
    vocabulary=96, positions=64, tied=True, item_bytes=4,
)  # fmt: skip


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(weight: Tensor, norms: Tensor) -> list[float]:
    """mean_i |W_ij| sqrt(s_j), a weight at a time."""
    return [
        sum(abs(float(row[j])) for row in weight) / len(weight) * float(norms[j]) ** 0.5
        for j in range(weight.shape[1])
    ]


@given(st.integers(0, 99), st.floats(0.12, 0.9))
def test_scores_and_choice(seed: int, sparsity: float) -> None:
    matrices = random(seed, 12, 24), random(seed + 1, 12, 9)
    norms = random(seed + 2, 24).square(), random(seed + 3, 9).square()
    columns = [column_scores(w, s) for w, s in zip(matrices, norms, strict=True)]
    attention, mlp = (by_loops(w, s) for w, s in zip(matrices, norms, strict=True))
    assert columns[0].tolist() == pytest.approx(attention)
    assert columns[1].tolist() == pytest.approx(mlp)
    heads = [sum(attention[8 * group : 8 * group + 8]) / 2 for group in range(3)]
    scores = LayerScores.of(*columns, SHAPES)
    assert scores.heads.tolist() == pytest.approx(heads)
    cuts = sorted(heads)[int(sparsity * 3)], sorted(mlp)[int(sparsity * 9)]
    kept = scores.without(int(sparsity * 3), int(sparsity * 9))
    assert kept.kv_heads == tuple(i for i, value in enumerate(heads) if value >= cuts[0])
    assert kept.neurons == tuple(i for i, value in enumerate(mlp) if value >= cuts[1])


def test_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="squares of activations became NaN or infinite"):
        LayerScores.of(torch.full((24,), torch.nan).double(), torch.ones(9).double(), SHAPES)


def watched(part: nn.Module, into: list[Tensor]) -> None:
    hook: Callable[..., None] = lambda module, args: into.append(args[0].detach())  # noqa: E731
    part.register_forward_pre_hook(hook)


def cut_by_hand(stock: Any, ids: Tensor, sparsity: float, kv_heads: int) -> list[LayerUnits]:
    """A model in float64: each layer is scored in the whole model, then its columns are zeroed."""
    kept, head_dim = [], stock.config.head_dim
    for layer in stock.model.layers:
        seen: list[list[Tensor]] = [[], []]
        parts = layer.self_attn.o_proj, layer.mlp.down_proj
        for part, into in zip(parts, seen, strict=True):
            watched(part, into)
        with torch.inference_mode():
            for row in ids:
                stock(row[None])
        scores = []
        for part, inputs in zip(parts, seen, strict=True):
            norms = torch.cat(inputs).square().sum(dim=1).mean(dim=0)
            scores.append(part.weight.data.abs().mean(dim=0) * norms.sqrt())
            part._forward_pre_hooks.clear()
        heads = scores[0].view(kv_heads, -1, head_dim).sum(dim=-1).mean(dim=-1)
        chosen = [
            values >= values.sort().values[int(sparsity * len(values))]
            for values in (heads, scores[1])
        ]
        columns = chosen[0].repeat_interleave(len(scores[0]) // kv_heads), chosen[1]
        for part, stays in zip(parts, columns, strict=True):
            part.weight.data[:, ~stays] = 0
        kept.append(LayerUnits(*(tuple(c.nonzero()[:, 0].tolist()) for c in chosen)))
    return kept


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("batch", [1, None])
def test_layers_see_what_is_left_of_those_before(
    tmp_path: Path, sparsity: float, batch: int | None
) -> None:
    stock = make_checkpoint(
        tmp_path / "model", num_hidden_layers=4, initializer_range=0.3, head_dim=8
    )
    ids, decoder = make_ids(5), Decoder(tmp_path / "model", "cpu")
    there = true_units(tmp_path / "model")
    visitor = _Choosing(decoder.architecture.shapes, there, sparsity, "cpu")
    context = make_context(tmp_path / "model", tmp_path / "out")
    records = walk(context, decoder, visitor, title="choose", input_ids=ids, batch=batch)
    found = [LayerUnits(tuple(r["kv_heads"]), tuple(r["neurons"])) for r in records]
    assert found == cut_by_hand(stock.double(), ids, sparsity, 2)


def test_parameters() -> None:
    parameters = WandaSpParameters.from_assignments({"SPARSITY": "0.2", "REFERENCE": "1"})
    assert parameters.label() == "0.2"
    assert "reference" not in parameters.identity()  # it changes nothing
    config = {**SHAPE, "model_type": "llama"}
    assert unroll(parameters, config).steps == unroll(parameters, {}).steps == (parameters,)
    with pytest.raises(InputError, match="is less than one of either: nothing would be removed"):
        unroll(WandaSpParameters(sparsity=0.01), config)
