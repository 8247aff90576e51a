"""What the reference LLM-Pruner keeps of stories260K, and what is right."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("matplotlib", reason="the stages draw")

from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.structured.units import LayerUnits, group_of, true_units
from methods.llm_pruner import score_stage
from methods.llm_pruner.scored import Scored
from methods.llm_pruner.selection import largest, local
from methods.llm_pruner.spec import ScoreLlmPrunerParameters

pytestmark = [pytest.mark.shared, pytest.mark.llm_pruner]

BLOCK = [
    ("l1", 0.25),
    ("l2", 0.25),
    ("param_first", 0.25),
    ("param_first", 0.5),
    ("param_second", 0.25),
    ("param_mix", 0.25),
    ("vectorize", 0.25),
]


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "stories260k"


@pytest.fixture(scope="module")
def expected(shared: Path) -> dict[str, Any]:
    file = shared / "reference" / "stories260k" / "llm_pruner_kept.json"
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.fixture(scope="module")
def scores(shared: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By the gradients of the first 10 rows of 64 tokens, and by weights."""
    found = {}
    text = shared / "reference" / "stories260k" / "calibration.safetensors"
    for kind in ("taylor", "magnitude"):
        output = tmp_path_factory.mktemp(kind)
        inputs = {"model": model, "calibration": text}
        place = StageContext(inputs, output, output / ".run" / "scratch", "cpu", Progress())
        score_stage.run(place, ScoreLlmPrunerParameters(importance=kind))
        found[kind] = Scored.read(output, model)
    return found


def of(scores: dict[str, Any], form: str) -> Scored:
    found: Scored = scores["magnitude" if form in ("l1", "l2") else "taylor"]
    return found


def kept_units(
    scores: dict[str, Any], model: Path, form: str, share: float, reference: bool
) -> list[LayerUnits]:
    shapes = Shapes.of(read_config(model))
    importance = of(scores, form).importance(form, shapes, reference=reference)
    return [
        local(importance[number], units, shapes, share) if 1 <= number <= 3 else units
        for number, units in enumerate(true_units(model))
    ]


@pytest.mark.parametrize(("form", "share"), BLOCK)
def test_heads_and_neurons_of_the_reference(
    scores: dict[str, Any], model: Path, expected: dict[str, Any], form: str, share: float
) -> None:
    shapes = Shapes.of(read_config(model))
    name = form if form in ("l1", "l2") else f"taylor-{form}"
    kept = kept_units(scores, model, form, share, reference=True)
    for number, units in enumerate(kept):
        reference = expected[f"block-{name}-{share:g}"][str(number)]
        assert list(units.kv_heads) == reference["kv_heads"]
        queries = [query for head in units.kv_heads for query in group_of(head, shapes)]
        assert queries == reference["q_heads"]
        assert list(units.neurons) == reference["ffn"]


@pytest.mark.parametrize("form", ["param_first", "vectorize"])
def test_channels_of_the_reference(
    scores: dict[str, Any], expected: dict[str, Any], form: str
) -> None:
    importance = of(scores, form).channels(form, reference=True)
    assert (
        list(largest(importance, range(64), 48))
        == (expected[f"channel-taylor-{form}-0.25"]["hidden"])
    )


@pytest.mark.parametrize(("form", "share"), BLOCK)
def test_the_right_map_by_brute_force(
    scores: dict[str, Any], shared: Path, model: Path, form: str, share: float
) -> None:
    """Each group's importance from its own rows and columns, by autograd over the whole model."""
    from espalier.models.loading import load_stock

    shapes = Shapes.of(read_config(model))
    stock = load_stock(model, torch.float32).requires_grad_()
    text = shared / "reference" / "stories260k" / "calibration.safetensors"
    ids = load_file(text)["input_ids"][:10, :64].long()
    squares: dict[str, Any] = {}
    for row in ids:
        stock.zero_grad()
        stock(row[None], labels=row[None]).loss.backward()
        for name, weight in stock.named_parameters():
            squares[name] = squares.get(name, 0) + weight.grad.square() / len(ids)
    stock.zero_grad()
    stock(ids, labels=ids).loss.backward()
    weights = dict(stock.named_parameters())

    def part(name: str, places: Any, dimension: int) -> float:
        """One matrix's share in a unit that is a set of rows or columns."""
        total = 0.0
        weight, gradient, second = weights[name].detach(), weights[name].grad, squares[name]
        for place in places:
            w, g, h = (t.select(dimension, place).double() for t in (weight, gradient, second))
            total += {
                "l1": w.abs().sum(),
                "l2": w.square().sum(),
                "param_first": (w * g).abs().sum(),
                "param_second": (w * w * h).abs().sum(),
                "param_mix": (w * g - w * w * h / 2).abs().sum(),
                "vectorize": (w * g).sum().abs(),
            }[form].item()
        return total

    importance = of(scores, form).importance(form, shapes, reference=False)
    size = shapes.head_dim
    for number in (1, 3):
        for head in range(shapes.kv_heads):
            own = range(head * size, (head + 1) * size)
            queries = [
                row for q in group_of(head, shapes) for row in range(q * size, (q + 1) * size)
            ]
            prefix = f"model.layers.{number}.self_attn"
            brute = part(f"{prefix}.k_proj.weight", own, 0) + part(
                f"{prefix}.v_proj.weight", own, 0
            )
            brute += part(f"{prefix}.q_proj.weight", queries, 0)
            brute += part(f"{prefix}.o_proj.weight", queries, 1)
            assert float(importance[number].heads[head]) == pytest.approx(brute, rel=1e-4)
        prefix = f"model.layers.{number}.mlp"
        for neuron in (0, 77, 171):
            brute = part(f"{prefix}.gate_proj.weight", [neuron], 0)
            brute += part(f"{prefix}.up_proj.weight", [neuron], 0)
            brute += part(f"{prefix}.down_proj.weight", [neuron], 1)
            assert float(importance[number].neurons[neuron]) == pytest.approx(brute, rel=1e-4)
