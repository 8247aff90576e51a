"""A model that computes with masks, against plain tensor code and autograd through it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods.sheared_llama.masked import MaskedModel, masking
from methods.sheared_llama.masked_parts import MaskedLinear
from methods.sheared_llama.masks import Drawn
from tests.unit.sheared import ids, masked_logits, random_masks, shapes_of, stock

MODELS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "ungrouped": {"num_key_value_heads": 6},
    "one-key-value-head": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
}


@pytest.fixture(params=MODELS, name="model")
def model_fixture(request: pytest.FixtureRequest) -> Any:
    return stock(**MODELS[request.param])


def leaves(masks: Drawn) -> Drawn:
    return Drawn(**{site: values.clone().requires_grad_() for site, values in masks.items()})


def gradients(logits: Tensor, model: Any, masks: Drawn) -> list[Tensor]:
    """Of a sum of the logits with weights that are all different."""
    weights = torch.arange(logits.numel(), dtype=logits.dtype).view_as(logits).cos()
    of = [values for _, values in masks.items()]
    return list(torch.autograd.grad((logits * weights).sum(), [*of, *model.parameters()]))


def test_logits_and_gradients_are_the_plain_ones(model: Any) -> None:
    tokens, masks = ids(), random_masks(shapes_of(model))
    plain = leaves(masks)
    expected = masked_logits(model, plain, tokens)
    wanted = gradients(expected, model, plain)
    own = leaves(masks)
    with masking(model, own):
        logits = model(tokens, use_cache=False).logits
        found = gradients(logits, model, own)
    assert torch.allclose(logits, expected, rtol=0, atol=1e-10)
    assert (expected - model(tokens).logits).abs().max() > 0.1  # the masks do something
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)
    assert found[0].abs().max() > 0.01 and found[3].abs().max() > 0.01


def test_without_masks_and_afterwards_it_is_the_stock_model() -> None:
    model, tokens = stock(torch.float32), ids()
    names = list(model.state_dict())
    expected = model(tokens).logits
    masked = MaskedModel(model)
    assert list(model.state_dict()) == names
    assert torch.allclose(model(tokens).logits, expected, rtol=0, atol=1e-6)
    masked.use(random_masks(shapes_of(model), torch.float32))
    assert not torch.allclose(model(tokens).logits, expected, atol=0.1)
    masked.use(None)
    assert torch.allclose(model(tokens).logits, expected, rtol=0, atol=1e-6)
    masked.remove()
    assert torch.equal(model(tokens).logits, expected)


def test_masks_of_ones_change_nothing() -> None:
    model, tokens = stock(torch.float32), ids()
    ones = {site: torch.ones_like(v) for site, v in random_masks(shapes_of(model)).items()}
    expected = model(tokens).logits
    with masking(model, Drawn(**ones)):
        assert torch.allclose(model(tokens).logits, expected, rtol=0, atol=1e-5)


def test_channels_without_a_mask_are_not_in_the_variance() -> None:
    """Weights that read or write only such channels can be anything."""
    model, tokens = stock(), ids()
    masks = random_masks(shapes_of(model))
    gone = masks.hidden == 0
    assert 0 < gone.sum() < len(gone)
    with masking(model, masks):
        expected = model(tokens).logits
        with torch.no_grad():
            model.model.embed_tokens.weight[:, gone] *= 50
            for layer in model.model.layers:
                layer.mlp.down_proj.weight[gone] *= -30
                layer.self_attn.o_proj.weight[gone] += 7
                layer.self_attn.q_proj.weight[:, gone] -= 7
        assert torch.allclose(model(tokens).logits, expected, rtol=0, atol=1e-10)


def test_nothing_left_gives_finite_logits() -> None:
    model, tokens = stock(torch.float32), ids()
    nothing = {
        site: torch.zeros_like(v)
        for site, v in random_masks(shapes_of(model), torch.float32).items()
    }
    with masking(model, Drawn(**nothing)):
        assert model(tokens).logits.abs().max() == 0


def test_gradients_through_checkpointed_layers_are_the_same() -> None:
    model, tokens = stock().train(), ids()
    masks = leaves(random_masks(shapes_of(model)))
    with masking(model, masks):
        expected = gradients(model(tokens, use_cache=False).logits, model, masks)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        found = gradients(model(tokens, use_cache=False).logits, model, masks)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_under_autocast_the_variance_is_not_rounded() -> None:
    """A single large channel among small ones: bfloat16 would lose the small ones' squares."""
    model = stock(torch.float32)
    masks = random_masks(shapes_of(model), torch.float32)
    states = torch.rand(1, 4, len(masks.hidden), generator=torch.Generator().manual_seed(3))
    with masking(model, replace(masks, layers=torch.ones(3))):
        expected = model.model.norm(states)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.model.norm(states), expected)


def test_training_under_autocast_has_the_gradients_of_plain_operations() -> None:
    """Float32 weights and bfloat16 products, as in training: what autograd makes of z * x."""
    part = MaskedLinear(torch.nn.Linear(12, 7))
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(2, 5, 12, generator=generator).requires_grad_()
    units = torch.rand(4, generator=generator).requires_grad_()
    whole = torch.tensor(0.7, requires_grad=True)
    of = [inputs, units, whole, part.weight, part.bias]
    part.masks, part.whole = units, whole
    with torch.autocast("cpu", torch.bfloat16):
        found = part(inputs)
        masked = inputs * (units * whole).repeat_interleave(3)
        expected = functional.linear(masked, part.weight) + (part.bias * whole).bfloat16()
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    for one, other in zip(
        torch.autograd.grad(found.float().square().sum(), of),
        torch.autograd.grad(expected.float().square().sum(), of),
        strict=True,
    ):
        assert one.dtype == torch.float32
        assert torch.allclose(one, other, rtol=0.02, atol=0.02)


def kept_for_backward(model: Any, tokens: Tensor) -> int:
    """Bytes of what autograd keeps, weights aside."""
    sizes: dict[int, int] = {}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)  # so that no place is used twice
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(tokens, use_cache=False)
    for parameter in model.parameters():
        sizes.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(sizes.values())


def test_masks_keep_next_to_nothing_more_for_the_backward_pass() -> None:
    model, tokens = stock(torch.float32).train(), ids(4, 30)
    plain = kept_for_backward(model, tokens)
    with masking(model, leaves(random_masks(shapes_of(model), torch.float32))):
        assert kept_for_backward(model, tokens) < 1.05 * plain


@pytest.mark.parametrize("family", ["Mistral", "Qwen2", "Qwen3"])
def test_other_families_compute_with_masks(family: str) -> None:
    """Their channels, neurons and layers alone: zeros there are what cutting gives."""
    model, tokens = stock(family=family), ids()
    shapes = shapes_of(model)
    ones = Drawn(
        torch.ones(shapes.hidden).double(),
        torch.ones(shapes.layers, shapes.kv_heads).double(),
        torch.ones(shapes.layers, shapes.intermediate).double(),
        torch.tensor([1.0, 0.0, 1.0]).double(),
    )
    with masking(model, ones):
        found = model(tokens).logits
    del model.model.layers[1]
    model.config.num_hidden_layers = 2
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = number
    assert torch.allclose(found, model(tokens).logits, rtol=0, atol=1e-5)
