"""What FLAP writes beside the stock model with the same parts silenced and the same means added."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("matplotlib", reason="the stages draw")

from espalier.contract.pruned import Padded, Uniform
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.gates import check_checkpoint
from espalier.models.loading import load_stock
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.structured.units import LayerUnits, true_units
from methods.flap import score_stage
from methods.flap import stage as flap_stage
from methods.flap.scored import FILE, read_figures
from methods.flap.spec import FlapParameters, FlapScoreParameters
from methods.wanda_sp import stage as wanda_sp_stage
from methods.wanda_sp.spec import WandaSpParameters
from tests.manifests import mark_pruned
from tests.tiny import tiny_llama, token_rows
from tests.unit.tiny_checkpoints import load_all, make_context

pytestmark = pytest.mark.minitron

Prune = Callable[..., tuple[Path, Padded | Uniform]]
WIDE = {"num_attention_heads": 8, "num_key_value_heads": 4, "initializer_range": 0.3}
"""More than a head to take, and layers that differ."""


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn in tests of the command line."""
    for stage in (score_stage, flap_stage, wanda_sp_stage):
        monkeypatch.setattr(stage, "save", lambda figure, stem: None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("parent") / "tiny", **WIDE)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_rows(tmp_path_factory.mktemp("tokens") / "tokens.safetensors", rows=6, width=24)


def context(output: Path, **inputs: Path) -> StageContext:
    return replace(make_context(output, output), inputs=inputs)


@pytest.fixture
def prune(tmp_path: Path, tokens: Path) -> Prune:
    """Measure a model and prune it; the result has passed the gates and says what it is."""

    def pruned(model: Path, name: str = "out", **asked: Any) -> tuple[Path, Padded | Uniform]:
        scores, output = tmp_path / f"{name}-scores", tmp_path / name
        score_stage.run(context(scores, model=model, calibration=tokens), FlapScoreParameters())
        given = context(output, model=model, scores=scores)
        account = flap_stage.run(given, FlapParameters(**asked)).pruning
        assert isinstance(account, Padded | Uniform)
        check_checkpoint(output, pruning=account)
        mark_pruned(output, account)
        return output, account

    return pruned


def means_of(stock: Any, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each layer the mean inputs of o_proj and of down_proj over all tokens."""
    seen: dict[Any, Tensor] = {}
    parts = [(layer.self_attn.o_proj, layer.mlp.down_proj) for layer in stock.model.layers]
    hooks = [
        part.register_forward_pre_hook(lambda module, args: seen.update({module: args[0]}))
        for pair in parts
        for part in pair
    ]
    with torch.inference_mode():
        stock(ids)
    for hook in hooks:
        hook.remove()
    return [(_mean(seen[one]), _mean(seen[two])) for one, two in parts]


def _mean(inputs: Tensor) -> Tensor:
    return inputs.flatten(0, 1).mean(dim=0)


def silenced(model: Path, ids: Tensor, kept: list[LayerUnits], biases: bool) -> Any:
    """The stock model with what is removed replaced by its mean, or by nothing."""
    stock, shapes = load_stock(model, torch.float32), Shapes.of(read_config(model))
    size = shapes.heads // shapes.kv_heads * shapes.head_dim
    for layer, units, means in zip(stock.model.layers, kept, means_of(stock, ids), strict=True):
        groups = torch.zeros(shapes.kv_heads, dtype=torch.bool)
        groups[list(units.kv_heads)] = True
        neurons = torch.zeros(shapes.intermediate, dtype=torch.bool)
        neurons[list(units.neurons)] = True
        stays = groups.repeat_interleave(size), neurons
        parts = layer.self_attn.o_proj, layer.mlp.down_proj
        for part, columns, mean in zip(parts, stays, means, strict=True):
            own = part.bias.data if part.bias is not None else torch.zeros(shapes.hidden)
            lost = part.weight.data @ (mean * ~columns)
            part.bias = torch.nn.Parameter(own + lost if biases else own)
            part.weight.data[:, ~columns] = 0
    return stock


def kept_of(account: Padded | Uniform) -> list[LayerUnits]:
    kept = account.kept
    assert kept.kv_heads is not None
    assert kept.intermediate is not None
    return [LayerUnits(h, n) for h, n in zip(kept.kv_heads, kept.intermediate, strict=True)]


def check_logits(output: Path, expected: Any, ids: Tensor) -> None:
    with torch.inference_mode():
        ours, theirs = load_stock(output, torch.float32)(ids).logits, expected(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("own", [True, False], ids=["biased-parent", "plain-parent"])
def test_logits(tmp_path: Path, tokens: Path, prune: Prune, biases: bool, own: bool) -> None:
    model = tiny_llama(tmp_path / "model", **WIDE, attention_bias=own, mlp_bias=own)
    output, account = prune(model, sparsity=0.4, bias=biases)
    assert isinstance(account, Padded)
    ids = load_file(tokens)["input_ids"].long()
    check_logits(output, silenced(model, ids, kept_of(account), biases), ids)
    weights, config = load_all(output), read_config(output)
    assert (config["attention_bias"], config["mlp_bias"]) == (biases or own, biases or own)
    added = {name for name in weights if name.endswith(".bias")}
    assert len(added) == (3 * 7 if biases or own else 0)
    if not own:  # those that stock Llama then has too
        assert not any(
            weights[name].any() for name in added if "o_proj" not in name and "down" not in name
        )


def test_another_dtype(tmp_path: Path, prune: Prune) -> None:
    model = tiny_llama(tmp_path / "model", **WIDE, dtype=torch.bfloat16)
    output, _ = prune(model, sparsity=0.4)
    assert {tensor.dtype for tensor in load_all(output).values()} == {torch.bfloat16}


def test_a_layer_without_heads_gives_its_mean(tmp_path: Path, tokens: Path, prune: Prune) -> None:
    """With one key-value head the z-scores of every layer's head are equal: the first goes."""
    model = tiny_llama(tmp_path / "model", num_key_value_heads=1, initializer_range=0.3)
    output, account = prune(model, structure="al-mm", remove_heads=1, sparsity=0.3)
    assert isinstance(account, Padded)
    empty = [number for number, layer in enumerate(account.layers) if not layer.heads]
    assert empty
    assert account.layers[empty[0]].intermediate
    ids = load_file(tokens)["input_ids"].long()
    check_logits(output, silenced(model, ids, kept_of(account), biases=True), ids)


def test_the_padding_of_a_parent_is_no_unit(
    tmp_path: Path, model: Path, tokens: Path, prune: Prune
) -> None:
    """Pruned again, a padded model loses true units alone, and as many as a narrow one would."""
    once, first = prune(model, "once", sparsity=0.4, bias=False)
    there = true_units(once)
    assert len({len(units.neurons) for units in there}) > 1
    twice, second = prune(once, "twice", structure="ul-um", sparsity=0.5, bias=False)
    left = [len(units.neurons) - len(units.neurons) // 2 for units in there]
    assert [len(units.neurons) for units in kept_of(second)] == left
    for before, after in zip(kept_of(first), kept_of(second), strict=True):
        assert {*after.kv_heads} <= {*before.kv_heads}
        assert {*after.neurons} <= {*before.neurons}
    ids = load_file(tokens)["input_ids"].long()
    check_logits(twice, silenced(model, ids, kept_of(second), biases=False), ids)
    output = tmp_path / "wanda-sp"
    given = context(output, model=once, calibration=tokens)
    third = wanda_sp_stage.run(given, WandaSpParameters(sparsity=0.5)).pruning
    assert isinstance(third, Padded | Uniform)
    check_checkpoint(output, pruning=third)
    assert [len(units.neurons) for units in kept_of(third)] == left
    check_logits(output, silenced(model, ids, kept_of(third), biases=False), ids)


def test_wanda_sp_writes_what_it_keeps(tmp_path: Path, model: Path, tokens: Path) -> None:
    output = tmp_path / "out"
    given = context(output, model=model, calibration=tokens)
    account = wanda_sp_stage.run(given, WandaSpParameters(sparsity=0.5)).pruning
    assert isinstance(account, Uniform)
    assert (account.after.kv_heads, account.after.intermediate) == (2, 24)
    ids = load_file(tokens)["input_ids"].long()
    check_logits(output, silenced(model, ids, kept_of(account), biases=False), ids)


def killed_at(monkeypatch: pytest.MonkeyPatch, visitor: Any, layer: int) -> None:
    """Its visit of that layer ends as a kill would, once."""
    visit = visitor.visit

    def failing(self: Any, step: Any) -> Any:
        if step.number == layer:
            monkeypatch.setattr(visitor, "visit", visit)
            raise KeyboardInterrupt
        return visit(self, step)

    monkeypatch.setattr(visitor, "visit", failing)


def test_a_killed_run_goes_on_with_the_same_bytes(
    tmp_path: Path, model: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage, visitor, parameters, files in (
        (score_stage, score_stage._Measuring, FlapScoreParameters(), (FILE, "scores.json")),
        (
            *(wanda_sp_stage, wanda_sp_stage._Choosing, WandaSpParameters()),
            ("model.safetensors", "scores.json", "config.json"),
        ),
    ):
        whole, killed = (tmp_path / f"{stage.__name__}-{name}" for name in ("whole", "killed"))
        stage.run(context(whole, model=model, calibration=tokens), parameters)  # type: ignore[attr-defined]
        killed_at(monkeypatch, visitor, 2)
        given = context(killed, model=model, calibration=tokens)
        with pytest.raises(KeyboardInterrupt):
            stage.run(given, parameters)  # type: ignore[attr-defined]
        stage.run(given, parameters)  # type: ignore[attr-defined]
        for file in files:
            assert (whole / file).read_bytes() == (killed / file).read_bytes(), file


def test_figures_that_do_not_fit(tmp_path: Path, model: Path, tokens: Path) -> None:
    scores = tmp_path / "scores"
    score_stage.run(context(scores, model=model, calibration=tokens), FlapScoreParameters())
    shapes = Shapes.of(read_config(model))
    figures = read_figures(scores, shapes)
    assert figures["attn"]["mean"].shape == (3, 64)
    with pytest.raises(InputError, match=r"holds \[3, 48\] figures of mlp where the model has"):
        read_figures(scores, replace(shapes, intermediate=47))
    held = load_file(scores / FILE)
    del held["mlp.exact"]
    save_file(held, scores / FILE)
    with pytest.raises(InputError, match="cannot be read; make the scores again"):
        read_figures(scores, shapes)
    (scores / FILE).write_bytes(b"nothing")
    with pytest.raises(InputError):
        read_figures(scores, shapes)
