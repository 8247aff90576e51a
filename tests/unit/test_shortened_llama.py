"""Blocks' scores against the whole stock model, and which blocks may go."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from espalier.contract.parameters import Parameters
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.decoder import Decoder
from methods.shortened_llama.algorithm import Norm, Taylor, order_of_removal
from methods.shortened_llama.protection import (
    Protect,
    protected,
    removed,
    removed_by_the_reference,
    require_removable,
)
from methods.shortened_llama.spec import (
    BlockScoreParameters,
    ShortenedLlamaParameters,
    unroll_where_removable,
)
from tests.unit.tiny_checkpoints import SHAPE, make_checkpoint, make_context, make_ids

pytestmark = pytest.mark.minitron
NORMS: tuple[Norm, ...] = ("l1", "l2")
POWER = {"l1": 1, "l2": 2}


def score_stage() -> Any:
    """It draws too, and not every image has what it draws with."""
    pytest.importorskip("matplotlib")
    from methods.shortened_llama import score_stage

    return score_stage


def weights_of(stock: Any, layer: int) -> dict[str, Any]:
    return dict(stock.model.layers[layer].named_parameters())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
def test_magnitudes_are_of_every_weight(tmp_path: Path, norm: Norm, family: str) -> None:
    stage = score_stage()
    stock = make_checkpoint(tmp_path / "model", family, torch.bfloat16, num_hidden_layers=3)
    context = make_context(tmp_path / "model", tmp_path / "out")
    found = stage.magnitudes(context, Decoder(tmp_path / "model", "cpu"), norm)
    for layer, scores in enumerate(found):
        weights = weights_of(stock, layer)
        assert scores.keys() == weights.keys()
        for name, weight in weights.items():
            expected = weight.detach().double().abs().pow(POWER[norm]).sum()
            assert scores[name] == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_taylor_is_that_of_the_whole_model(tmp_path: Path, norm: Norm) -> None:
    """Gradients of the mean loss by autograd, the model whole and all samples at once."""
    stage = score_stage()
    stock, ids = make_checkpoint(tmp_path / "model", num_hidden_layers=3), make_ids(5)
    context = make_context(tmp_path / "model", tmp_path / "out")
    found = stage.taylor(context, Decoder(tmp_path / "model", "cpu"), ids, norm, 2)
    logits = stock(ids, use_cache=False).logits
    cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    for layer, scores in enumerate(found):
        weights = weights_of(stock, layer)
        assert scores.keys() == weights.keys()
        for name, weight in weights.items():
            products = (weight * weight.grad).detach().double().abs().pow(POWER[norm])
            assert scores[name] == pytest.approx(float(products.sum()), rel=1e-4)


def test_taylor_adds_signed_products_before_it_takes_magnitudes() -> None:
    observer, weight = Taylor("l1", 2), torch.tensor([2.0, -3.0])
    observer.begin({"w": weight})
    observer.add({"w": torch.tensor([1.0, 1.0])})
    observer.add({"w": torch.tensor([-1.0, 3.0])})
    assert float(observer.end()["w"]) == 3 * 4 / 2
    observer.begin({"w": weight})
    observer.add({"w": torch.tensor([torch.inf, 1.0])})
    with pytest.raises(InputError, match="products of weights and gradients became NaN or inf"):
        observer.end()


def scored(tmp_path: Path, **given: str) -> dict[str, Any]:
    """What the stage writes."""
    ids = make_ids(4, 24).to(torch.int32)
    save_file({"input_ids": ids}, tmp_path / "ids.safetensors")
    inputs = {"model": tmp_path / "model", "calibration": tmp_path / "ids.safetensors"}
    context = make_context(tmp_path / "model", tmp_path / "out")
    context = StageContext(inputs, context.output, context.scratch, "cpu", context.progress)
    score_stage().run(context, BlockScoreParameters.from_assignments(given))
    found: dict[str, Any] = json.loads((context.output / "scores.json").read_text())
    return found


def test_perplexity_without_each_block(tmp_path: Path) -> None:
    stock = make_checkpoint(tmp_path / "model", num_hidden_layers=3)
    found = scored(tmp_path, SEQLEN="20", SAMPLES="3")
    ids, layers = make_ids(4, 24)[:3, :20], stock.model.layers

    def perplexity(keep: list[int]) -> float:
        stock.model.layers = torch.nn.ModuleList([layers[n] for n in keep])
        with torch.inference_mode():
            logits = stock(ids, use_cache=False).logits
        return float(cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).exp())

    expected = [perplexity([n for n in range(3) if n != block]) for block in range(3)]
    assert found["block_score"] == pytest.approx(expected, rel=1e-5)
    assert found["unpruned"] == pytest.approx(perplexity([0, 1, 2]), rel=1e-5)
    assert found["order"] == sorted(range(3), key=expected.__getitem__)
    assert found["norm"] is None


def test_scores_by_weight_add_up(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", num_hidden_layers=3)
    for words in ({"IMPORTANCE": "taylor", "SEQLEN": "24"}, {"IMPORTANCE": "magnitude"}):
        found = scored(tmp_path, **words)
        assert found["norm"] == "l1"
        assert len(found["weight_score"]) == 9
        sums = [sum(scores) for scores in zip(*found["weight_score"].values(), strict=True)]
        assert found["block_score"] == pytest.approx(sums)
        assert found["order"] == order_of_removal(found["block_score"])


def test_order() -> None:
    assert order_of_removal([3.0, None, 1.0, 1.0, 0.0]) == [4, 2, 3, 0, 1]


def test_what_is_protected() -> None:
    assert protected(32, "published") == protected(32, "scaled") == {0, 1, 2, 3, 30, 31}
    assert protected(80, "published") == protected(80, "scaled") == {0, 1, 2, 3, 78, 79}
    assert protected(16, "scaled") == {0, 1, 15}
    assert protected(24, "scaled") == {0, 1, 2, 22, 23}
    assert protected(5, "scaled") == {0, 4}
    assert protected(5, "published") == {0, 1, 2, 3, 4}
    assert protected(5, "none") == set()


@given(st.data())
def test_the_first_of_the_order_that_may_go(data: st.DataObject) -> None:
    order = data.draw(st.integers(1, 40).flatmap(lambda n: st.permutations(range(n))))
    protect: Protect = data.draw(st.sampled_from(["scaled", "published", "none"]))
    count = data.draw(st.integers(1, len(order)))
    stay = protected(len(order), protect)
    gone = removed(order, count, protect)
    quirk = removed_by_the_reference(order, count, protect)
    assert not stay & {*gone}
    assert len(quirk) == len({*quirk}) == count
    if len(order) - len(stay) >= count:
        require_removable(len(order), count, protect)
        assert gone == quirk
        last = order.index(gone[-1])
        assert {*gone} == {*order[: last + 1]} - stay
    else:
        with pytest.raises(InputError, match=f"^{count} of {len(order)} blocks are to go and PRO"):
            require_removable(len(order), count, protect)
        assert quirk[: len(gone)] == gone
        left = {*range(len(order))} - {*gone}
        assert {*range(len(order))} - {*quirk} == {*sorted(left)[: len(order) - count]}


def parameters(**given: str) -> ShortenedLlamaParameters:
    return ShortenedLlamaParameters.from_assignments(given)


def test_too_few_that_may_go_are_refused_before_anything_is_measured() -> None:
    config = {"model_type": "llama", **SHAPE, "num_hidden_layers": 5}
    assert len(unroll_where_removable(parameters(LAYERS="2"), config).steps) == 1
    says = r"^4 of 5 blocks are to go and PROTECT=scaled lets 3 of them; give LAYERS=2 or more, or "
    with pytest.raises(InputError, match=says):
        unroll_where_removable(parameters(LAYERS="1"), config)
    with pytest.raises(InputError, match="lets 0 of them; give another PROTECT"):
        unroll_where_removable(parameters(LAYERS="4", PROTECT="published"), config)
    unroll_where_removable(parameters(LAYERS="1", REFERENCE="1"), config)
    with pytest.raises(InputError, match=r"^2 of 3 blocks are to go and PROTECT=scaled lets 1"):
        unroll_where_removable(parameters(LAYERS="1", STEPS="2"), config)


def test_the_reference_protects_as_published() -> None:
    assert parameters(LAYERS="4").protect == "scaled"
    assert parameters(LAYERS="4", REFERENCE="1").protect == "published"
    assert parameters(LAYERS="4", REFERENCE="1", PROTECT="none").protect == "none"
    quirk = parameters(LAYERS="4", REFERENCE="1")
    assert ShortenedLlamaParameters.model_validate(quirk.model_dump()) == quirk


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"NORM": "l2"}, "NORM=l2 is of weights and IMPORTANCE=ppl looks at none; leave NORM out"),
        (
            {"IMPORTANCE": "magnitude", "SAMPLES": "3", "SEED": "1"},
            "IMPORTANCE=magnitude uses no tokens; leave out SAMPLES, SEED",
        ),
        ({"IMPORTANCE": "loss"}, "IMPORTANCE=loss should be 'ppl', 'taylor' or 'magnitude'"),
    ],
)
def test_words_without_a_use(given: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        BlockScoreParameters.from_assignments(given)


def test_names_and_identities() -> None:
    def scores(**given: str) -> Parameters:
        return BlockScoreParameters.from_assignments(given)

    assert scores().label() == "ppl-10x128"
    assert scores(IMPORTANCE="taylor").label() == "taylor-l1-10x128"
    assert scores(IMPORTANCE="magnitude", NORM="l2").label() == "magnitude-l2"
    default, stated = scores(IMPORTANCE="taylor"), scores(IMPORTANCE="taylor", NORM="l1")
    assert default.identity() == stated.identity()
    assert default.unused() == frozenset()
    assert scores(IMPORTANCE="magnitude").unused() == {"calibration"}
    assert parameters(LAYERS="26").label() == "26"
    assert parameters(LAYERS="26", PROTECT="none").label() == "26-unprotected"
    assert parameters(LAYERS="26", REFERENCE="1").label() == "26-published-reference"
