"""The extracted stock model against the masked one that it came from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from espalier.errors import InputError
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.structured.restructure import restructured_config
from methods.sheared_llama.extraction import HEAD, Extraction, extracted
from methods.sheared_llama.masked import masking
from methods.sheared_llama.masks import Drawn, Masks
from methods.sheared_llama.target import Sizes, Target
from tests.unit.sheared import ids, masked_logits, shapes_of, stock, target_of

MODELS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "ungrouped": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "biases": {"attention_bias": True, "mlp_bias": True},
}


def final_masks(target: Target, dtype: torch.dtype = torch.float64) -> Drawn:
    """Of log-alphas all over their range, as after a mask learning."""
    generator = torch.Generator().manual_seed(5)
    masks = Masks(target.parent, generator).to(dtype)
    for values in masks.parameters():
        values.data = 4 * torch.randn(values.shape, generator=generator, dtype=dtype)
    final: Drawn = masks.final(target)
    return final


def target_for(model: Any) -> Target:
    if model.config.num_attention_heads == 4:
        return replace(target_of(model), kv_heads=2)
    return target_of(model)


def names_of(model: Any) -> list[str]:
    tied = model.config.tie_word_embeddings
    return [name for name in model.state_dict() if not (tied and name == HEAD)]


def extract(model: Any, masks: Drawn, target: Target) -> tuple[Any, list[str]]:
    """The stock model of the extracted tensors, and what of them it had no use for or lacked."""
    state = model.state_dict()
    layers = Extraction(masks, target).layers
    config = restructured_config(model.config.to_dict(), layers, target.shapes)
    new = type(model)(type(model.config)(**config)).to(model.dtype).eval()
    tensors = dict(extracted(names_of(model), state.__getitem__, masks, target))
    missing, unexpected = new.load_state_dict(tensors, strict=False)
    new.tie_weights()
    odd = {*missing, *unexpected} - ({HEAD} if target.parent.tied else set())
    return new, sorted(odd)


def wide(norm: Any, states: Tensor) -> Tensor:
    """The stock norm, which rounds to float32, in the dtype of its input."""
    variance = states.square().mean(-1, keepdim=True)
    return norm.weight * (states * (variance + norm.variance_epsilon).rsqrt())


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_the_extracted_model_is_the_masked_one(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, model = ids(), stock(**settings)
    target = target_for(model)
    masks = final_masks(target)
    assert [v for _, values in masks.items() for v in values.flatten() if 0.02 < v < 0.98]  # soft
    with masking(model, masks):
        expected = model(tokens).logits
    new, odd = extract(model, masks, target)
    assert not odd
    shapes = shapes_of(new)
    assert shapes == target.shapes
    assert shapes.head_dim == model.config.head_dim
    assert (shapes.layers, shapes.hidden, shapes.intermediate) == (2, 16, 13)
    monkeypatch.setattr(LlamaRMSNorm, "forward", wide)
    assert torch.allclose(new(tokens).logits, expected, rtol=0, atol=1e-10)
    assert torch.allclose(masked_logits(model, masks, tokens), expected, rtol=0, atol=1e-10)
    assert expected.std() > 0.1


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_in_float32_and_saved(settings: dict[str, Any], tmp_path: Path) -> None:
    tokens, model = ids(), stock(torch.float32, **settings)
    target = target_for(model)
    masks = final_masks(target, torch.float32)
    with masking(model, masks):
        expected = model(tokens).logits
    new, _ = extract(model, masks, target)
    new.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(loaded(tokens).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.shared
def test_of_a_trained_model_with_groups_and_a_tied_head(shared: Path) -> None:
    path = shared / "models" / "stories260k"
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    parent = Shapes.of(read_config(path))
    target = Target.of(parent, Sizes(layers=4, hidden=48, heads=6, ffn=101))
    masks, tokens = final_masks(target, torch.float32), ids(4, 60)
    with masking(model, masks):
        expected = model(tokens).logits
    new, odd = extract(model, masks, target)
    assert not odd
    assert shapes_of(new) == replace(target.shapes, item_bytes=4)
    assert torch.allclose(new(tokens).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["Mistral", "Qwen2", "Qwen3"])
def test_other_families(family: str) -> None:
    """Biases of queries, keys and values, and norms of heads."""
    tokens, model = ids(), stock(torch.float32, family)
    target = target_of(model)
    masks = final_masks(target, torch.float32)
    with masking(model, masks):
        expected = model(tokens).logits
    new, odd = extract(model, masks, target)
    assert not odd
    assert torch.allclose(new(tokens).logits, expected, rtol=0, atol=1e-4)


def test_layers_are_numbered_anew_and_shapes_known_beforehand() -> None:
    model = stock()
    target = target_of(model)
    masks = final_masks(target)
    ones = torch.tensor([1.0, 0.0, 0.5]).double()
    extraction = Extraction(replace(masks, layers=ones), target)
    sources = extraction.sources(names_of(model))
    assert extraction.layers == (0, 2)
    up = "model.layers.1.mlp.up_proj.weight"
    assert sources[up] == "model.layers.2.mlp.up_proj.weight"
    assert "model.layers.2.mlp.up_proj.weight" not in sources
    for old in sources.values():
        stored = model.state_dict()[old]
        left = extraction.tensor(old, stored)
        assert tuple(left.shape) == extraction.shape(old, tuple(stored.shape))
        half = extraction.tensor(old, stored.bfloat16())
        assert half.dtype == torch.bfloat16
        assert torch.allclose(half.double(), left, rtol=2**-7, atol=0)


def test_masks_of_another_shape_are_refused() -> None:
    target = target_of(stock())
    masks = final_masks(target)
    first = int(masks.layers.nonzero()[0])
    uneven = masks.heads.clone()
    uneven[first] = 1
    with pytest.raises(InputError, match="leave 2 or 3 key-value heads where the target has 2 in"):
        Extraction(replace(masks, heads=uneven), target)
    with pytest.raises(InputError, match="leave 24 channels where the target has 16; take"):
        Extraction(replace(masks, hidden=torch.ones(24)), target)
    gone = int((masks.layers == 0).nonzero()[0])
    unread = masks.heads.clone()
    unread[gone] = 1  # of a layer that goes
    assert len(Extraction(replace(masks, heads=unread), target).layers) == 2
