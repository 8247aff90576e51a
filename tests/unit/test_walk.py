"""The walk against plain loops over the whole stock model."""

import copy
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from espalier.errors import EnvironmentFailure, InputError
from espalier.models.checkpoint.companions import CONFIG
from espalier.models.checkpoint.header import TensorSpec
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.checkpoint.writer import CheckpointWriter, spec_of
from espalier.models.decoder import Decoder
from espalier.models.shapes import INPUT_GROUPS
from espalier.pruning.layers.resume import ResumeState
from espalier.pruning.layers.taps import Tap, across, inputs_of, outputs_of
from espalier.pruning.layers.walk import LayerStep, walk
from tests.unit.tiny_checkpoints import (
    load_all,
    make_checkpoint,
    make_context,
    make_ids,
    rewrite,
)

pytestmark = pytest.mark.every_image

INPUTS = [group[0] for group in INPUT_GROUPS]
OUTPUTS = ["input_layernorm", "post_attention_layernorm", "self_attn", "mlp"]
HEAD_DIM, KEPT_KV, KEPT_FFN = 8, [1], [0, 3, 5, 8, 13, 21, 34]


class Visits:
    """A visitor made of a function."""

    def __init__(self, visit: Callable[[LayerStep], dict[str, Any]]) -> None:
        self.visit = visit


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize("how", ["observe", "advance"])
def test_taps_see_what_hooks_on_the_whole_model_see(
    tmp_path: Path, batch: int | None, how: str
) -> None:
    stock, ids = make_checkpoint(tmp_path / "m", num_hidden_layers=3), make_ids(5)
    expected: list[dict[str, Tensor]] = [{} for _ in range(3)]
    for seen, layer in zip(expected, stock.model.layers, strict=True):
        for name in INPUTS:
            layer.get_submodule(name).register_forward_pre_hook(
                lambda m, args, seen=seen, name=name: seen.update({f"in {name}": args[0]})
            )
        for name in [*OUTPUTS, ""]:
            layer.get_submodule(name).register_forward_hook(
                lambda m, args, out, seen=seen, name=name: seen.update({f"out {name}": first(out)})
            )
    with torch.inference_mode():
        stock(ids, use_cache=False)

    found: list[dict[str, list[Tensor]]] = []

    def visit(step: LayerStep) -> dict[str, Any]:
        seen: dict[str, list[Tensor]] = {}
        found.append(seen)

        def keep(key: str) -> Callable[[Tensor], None]:
            return lambda states: seen.setdefault(key, []).append(states.clone())

        def both(before: Tensor, after: Tensor) -> None:
            keep("before")(before)
            keep("out ")(after)

        taps = [
            *(inputs_of(name, keep(f"in {name}")) for name in INPUTS),
            *(outputs_of(name, keep(f"out {name}")) for name in OUTPUTS),
            across("", both),
        ]
        getattr(step, how)(taps)
        assert {tap.fed for tap in taps} == {len(seen["before"])}
        return {}

    decoder = Decoder(tmp_path / "m")
    context = make_context(tmp_path / "m", tmp_path / "o")
    walk(context, decoder, Visits(visit), title="look", input_ids=ids, batch=batch)
    assert len(found[0]["before"]) == {1: 5, 3: 2, None: 1}[batch]
    for number, (seen, whole) in enumerate(zip(found, expected, strict=True)):
        before = torch.cat(seen.pop("before"))
        same = stock.model.embed_tokens(ids) if number == 0 else expected[number - 1]["out "]
        torch.testing.assert_close(before, same, atol=1e-6, rtol=1e-5)
        assert seen.keys() == whole.keys()
        for key, states in seen.items():
            torch.testing.assert_close(torch.cat(states), whole[key], atol=1e-6, rtol=1e-5)


def test_the_last_product_is_left_out_where_nobody_wants_it(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    products: list[int] = []

    def visit(step: LayerStep) -> dict[str, Any]:
        products.clear()
        last = step.module.get_submodule("mlp.down_proj")
        last.register_forward_hook(lambda *_: products.append(step.number))
        before = step.hidden.clone()
        step.observe([inputs_of("mlp.down_proj", lambda inputs: None)])
        assert not products
        step.observe([outputs_of("mlp", lambda outputs: None)])
        assert products == [step.number]
        assert torch.equal(step.hidden, before)
        return {}

    context = make_context(tmp_path / "m", tmp_path / "o")
    decoder = Decoder(tmp_path / "m")
    walk(context, decoder, Visits(visit), title="look", input_ids=make_ids())


def test_a_tap_that_sees_nothing_is_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")

    def visit(step: LayerStep) -> dict[str, Any]:
        step.module.add_module("idle", nn.Identity())
        step.observe([Tap("idle", lambda inputs: None), inputs_of("mlp", lambda inputs: None)])
        return {}

    context = make_context(tmp_path / "m", tmp_path / "o")
    with pytest.raises(InputError, match="no tokens reached idle of layer 0, so it cannot be"):
        walk(context, Decoder(tmp_path / "m"), Visits(visit), title="look", input_ids=make_ids())


@pytest.mark.parametrize("how", ["observe", "advance"])
def test_a_tap_that_sees_some_of_the_tokens_is_named(tmp_path: Path, how: str) -> None:
    """Also where the same tap has seen all of them before."""
    make_checkpoint(tmp_path / "m")

    def visit(step: LayerStep) -> dict[str, Any]:
        tap = inputs_of("mlp.up_proj", lambda inputs: None)
        step.observe([tap])
        mlp, calls = step.module.get_submodule("mlp"), itertools.count()
        stock = mlp.forward
        mlp.forward = lambda states: stock(states) if next(calls) else states
        getattr(step, how)([tap])
        return {}

    context = make_context(tmp_path / "m", tmp_path / "o")
    decoder, ids = Decoder(tmp_path / "m"), make_ids(5)
    with pytest.raises(InputError, match=r"only 2 of 3 batches .* reached mlp\.up_proj of layer 0"):
        walk(context, decoder, Visits(visit), title="look", input_ids=ids, batch=2)


def test_no_tokens_at_all_are_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    context, decoder = make_context(tmp_path / "m", tmp_path / "o"), Decoder(tmp_path / "m")
    for ids in (make_ids(0), make_ids(4, 0)):
        with pytest.raises(InputError, match="there are no tokens"):
            walk(context, decoder, Visits(lambda step: {}), title="look", input_ids=ids)


def loud(dtype: Any) -> dict[str, Tensor]:
    """Norms of layer 1 that give its matrices large inputs."""
    norms = ("input_layernorm", "post_attention_layernorm")
    return {
        f"model__layers__1__{norm}__weight": torch.full((32,), 90, dtype=dtype) for norm in norms
    }


OVERFLOWING = ["mlp.up_proj", "mlp.down_proj", "self_attn.v_proj", "self_attn.o_proj"]


@pytest.mark.parametrize("how", ["observe", "advance"])
@pytest.mark.parametrize("name", OVERFLOWING)
def test_the_first_layer_that_overflows_is_named(tmp_path: Path, name: str, how: str) -> None:
    """Before the visitor can use what it saw, though nobody wants the last product."""
    make_checkpoint(tmp_path / "m", dtype=torch.float16, num_hidden_layers=3)
    full = f"model.layers.1.{name}.weight"
    huge = torch.full_like(load_all(tmp_path / "m")[full], 6e4)
    rewrite(tmp_path / "m", **{full.replace(".", "__"): huge}, **loud(torch.float16))
    visited: list[int] = []

    def visit(step: LayerStep) -> dict[str, Any]:
        getattr(step, how)([])
        visited.append(step.number)
        return {}

    context = make_context(tmp_path / "m", tmp_path / "o")
    sentence = (
        r"^layer 1's activations overflow float16 on these tokens; use bfloat16 or float32\.$"
    )
    with pytest.raises(InputError, match=sentence):
        walk(context, Decoder(tmp_path / "m"), Visits(visit), title="look", input_ids=make_ids())
    assert visited == ([0, 1] if (how, name) == ("observe", "mlp.down_proj") else [0])


def test_every_loop_over_layers_sees_an_overflow(tmp_path: Path) -> None:
    """Also of the last layer, and of a dtype that few overflow."""
    make_checkpoint(tmp_path / "m")
    weight = load_all(tmp_path / "m")["model.layers.1.mlp.down_proj.weight"]
    huge = {"model__layers__1__mlp__down_proj__weight": weight.fill_(3e38)}
    rewrite(tmp_path / "m", **huge, **loud(torch.float32))
    decoder = Decoder(tmp_path / "m")
    hidden = decoder.embed(make_ids())
    with pytest.raises(InputError, match="layer 1's activations became NaN or infinite in float32"):
        for layer in decoder.layers():
            hidden = layer.run(hidden)


def cut(layer: nn.Module) -> nn.Module:
    """A stock layer without some heads and neurons, and with biases in every matrix."""
    smaller = copy.deepcopy(layer)
    keys = torch.cat([torch.arange(h * HEAD_DIM, (h + 1) * HEAD_DIM) for h in KEPT_KV])
    queries = torch.cat(
        [torch.arange(2 * h * HEAD_DIM, 2 * (h + 1) * HEAD_DIM) for h in KEPT_KV]
    )  # two query heads a group
    neurons = torch.tensor(KEPT_FFN)
    rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "gate_proj": neurons}
    rows["up_proj"], columns = neurons, {"o_proj": queries, "down_proj": neurons}
    for block in (smaller.self_attn, smaller.mlp):
        for name, matrix in list(block.named_children()):
            if not isinstance(matrix, nn.Linear):
                continue
            weight = matrix.weight.data
            weight = weight[rows[name]] if name in rows else weight[:, columns[name]]
            made = nn.Linear(weight.shape[1], weight.shape[0]).requires_grad_(requires_grad=False)
            made.weight.data.copy_(weight)
            made.bias.data.zero_()
            if name in columns:
                made.bias.data.copy_(weight.sum(dim=1))
            setattr(block, name, made)
    # transformers before 4.48 asks the attention, not the matrices, how many heads it has.
    smaller.self_attn.num_heads = 2 * len(KEPT_KV)
    smaller.self_attn.num_key_value_heads = len(KEPT_KV)
    return smaller


class Restructuring:
    """Measures a dense layer, cuts it, adds biases; what is left feeds the next layer."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.final: Tensor | None = None

    def visit(self, step: LayerStep) -> dict[str, Any]:
        seen: list[Tensor] = []
        step.observe([inputs_of("mlp.down_proj", lambda x: seen.append(x.double().sum()))])
        if step.number == self.fail_at:
            raise KeyboardInterrupt
        step.module = cut(step.module)
        for name, tensor in step.module.state_dict().items():
            step.contents[step.name(name)] = tensor
        if step.number == 2:
            step.advance()
            self.final = step.hidden
        return {"seen": float(sum(seen))}


def specs_of(decoder: Decoder) -> list[TensorSpec]:
    layers = [
        spec_of(f"model.layers.{layer.number}.{name}", tensor)
        for layer in decoder.layers()
        for name, tensor in cut(layer.module).state_dict().items()
    ]
    outer = decoder.architecture.outer_tensor_names(decoder.reader)
    return [*layers, *(decoder.reader.entries[name].spec for name in outer)]


def restructure(model: Path, output: Path, visitor: Restructuring) -> list[dict[str, Any]]:
    context, decoder = make_context(model, output), Decoder(model)
    writer = CheckpointWriter(output, specs_of(decoder), resume=True)
    records = walk(
        context, decoder, visitor, title="cut", input_ids=make_ids(), output=writer, batch=3
    )
    reader = decoder.reader
    writer.write({n: reader.entries[n] for n in decoder.architecture.outer_tensor_names(reader)})
    writer.finish()
    return records


def test_a_visitor_may_measure_restructure_and_add_biases(tmp_path: Path) -> None:
    """What is written is a stock model, and gives the logits that the walk's own tokens give."""
    stock = make_checkpoint(tmp_path / "m", num_hidden_layers=3)
    hidden, expected = stock.model.embed_tokens(make_ids()), []
    places = torch.arange(24)[None]
    rotary = stock.model.rotary_emb(hidden, places)
    with torch.inference_mode():
        for layer in stock.model.layers:
            seen: list[Tensor] = []
            hook = layer.mlp.down_proj.register_forward_pre_hook(
                lambda m, args, seen=seen: seen.append(args[0].double().sum())
            )
            layer(hidden, position_ids=places, position_embeddings=rotary)
            hook.remove()
            expected.append(float(seen[0]))
            hidden = first(cut(layer)(hidden, position_ids=places, position_embeddings=rotary))
    visitor = Restructuring()
    records = restructure(tmp_path / "m", tmp_path / "o", visitor)
    assert [record["seen"] for record in records] == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(visitor.final, hidden, atol=1e-5, rtol=1e-4)

    config = copy.deepcopy(stock.config)
    config.num_attention_heads, config.num_key_value_heads = 2 * len(KEPT_KV), len(KEPT_KV)
    config.intermediate_size, config.head_dim = len(KEPT_FFN), HEAD_DIM
    config.attention_bias = config.mlp_bias = True
    (tmp_path / "o" / CONFIG).write_text(config.to_json_string())
    written = type(stock).from_pretrained(tmp_path / "o")
    with torch.inference_mode():
        logits = written(make_ids(), use_cache=False).logits
        ours = stock.lm_head(stock.model.norm(hidden))
    torch.testing.assert_close(logits, ours, atol=1e-5, rtol=1e-4)
    assert load_all(tmp_path / "o")["model.layers.1.mlp.down_proj.bias"].abs().max() > 0


@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_a_killed_restructuring_goes_on_with_the_same_bytes(tmp_path: Path, fail_at: int) -> None:
    make_checkpoint(tmp_path / "m", num_hidden_layers=3)
    whole = restructure(tmp_path / "m", tmp_path / "a", Restructuring())
    with pytest.raises(KeyboardInterrupt):
        restructure(tmp_path / "m", tmp_path / "b", Restructuring(fail_at))
    scratch = make_context(tmp_path / "m", tmp_path / "b").scratch
    assert ResumeState.load(scratch).next_layer == fail_at
    assert restructure(tmp_path / "m", tmp_path / "b", Restructuring()) == whole
    for file in sorted((tmp_path / "a").glob("model*")):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_observing_again_sees_what_was_changed(tmp_path: Path) -> None:
    """As methods need that decide on the MLP by what the pruned attention gives."""
    make_checkpoint(tmp_path / "m")

    def visit(step: LayerStep) -> dict[str, Any]:
        seen: list[Tensor] = []
        tap = inputs_of("post_attention_layernorm", lambda states: seen.append(states.clone()))
        step.observe([tap])
        step.module.get_submodule("self_attn.o_proj").weight.data.zero_()
        step.observe([tap])
        assert not torch.equal(seen[0], seen[1])
        assert torch.equal(seen[1], step.hidden)  # the residual alone
        return {}

    context = make_context(tmp_path / "m", tmp_path / "o")
    walk(context, Decoder(tmp_path / "m"), Visits(visit), title="look", input_ids=make_ids())


def test_without_tokens_nothing_passes(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m", num_hidden_layers=3)

    def visit(step: LayerStep) -> dict[str, Any]:
        assert step.hidden is None
        step.observe([inputs_of("mlp", lambda inputs: pytest.fail("nothing can pass"))])
        return {"number": step.number}

    context = make_context(tmp_path / "m", tmp_path / "o")
    records = walk(context, Decoder(tmp_path / "m"), Visits(visit), title="look")
    assert records == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert ResumeState.load(context.scratch).hidden is None


def test_layers_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once where no tokens pass; else with the pass, when a layer's statistics are gone."""
    make_checkpoint(tmp_path / "m", num_hidden_layers=3)
    decoder, read = Decoder(tmp_path / "m"), [threading.Event() for _ in range(4)]
    load = decoder._load

    def reading(layer: int) -> nn.Module:
        read[layer].set()
        return load(layer)

    monkeypatch.setattr(decoder, "_load", reading)

    def visit(step: LayerStep) -> dict[str, Any]:
        following = read[step.number + 1]
        if step.hidden is None:
            assert step.number == 2 or following.wait(60)
        else:
            step.observe([])
            assert not following.is_set()
            step.advance()
            assert step.number == 2 or following.wait(60)
        return {}

    for name, ids in (("a", None), ("b", make_ids())):
        for event in read:
            event.clear()
        context = make_context(tmp_path / "m", tmp_path / name)
        walk(context, decoder, Visits(visit), title="look", input_ids=ids)


def test_some_layers_in_another_order(tmp_path: Path) -> None:
    stock, ids = make_checkpoint(tmp_path, num_hidden_layers=4), make_ids()
    stock.model.layers = nn.ModuleList([stock.model.layers[n] for n in (3, 0, 2)])
    decoder = Decoder(tmp_path)
    with torch.inference_mode():
        hidden = decoder.embed(ids)
        for layer in decoder.layers([3, 0, 2]):
            hidden = layer.run(hidden)
        expected = stock(ids, use_cache=False).logits
        torch.testing.assert_close(decoder.logits(hidden), expected, atol=1e-5, rtol=1e-4)


def test_a_full_disk_ends_the_walk_at_the_layer_not_written(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m", num_hidden_layers=3)
    decoder = Decoder(tmp_path / "m")

    class Full(CheckpointWriter):
        def write(self, contents: Any) -> None:
            if "model.layers.1.mlp.up_proj.weight" in contents:
                raise EnvironmentFailure("the disk is full.")
            super().write(contents)

    context = make_context(tmp_path / "m", tmp_path / "o")
    entries = CheckpointReader(tmp_path / "m").entries
    output = Full(context.output, [entry.spec for entry in entries.values()], resume=True)
    with pytest.raises(EnvironmentFailure, match="full"):
        walk(context, decoder, Visits(lambda step: {}), title="prune", output=output)
    assert ResumeState.load(context.scratch).next_layer == 1


def test_a_state_of_another_form_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr("espalier.pruning.layers.resume.FORM", "1")
        ResumeState(2, [{"zeros": 1}], make_ids().float()).save(tmp_path)
        assert ResumeState.load(tmp_path).next_layer == 2
    assert ResumeState.load(tmp_path) == ResumeState()
