"""Tiny models and masks for the tests of Sheared-LLaMA, and the masked forward as plain tensors."""

from typing import Any

import torch
import transformers
from torch import Tensor

from espalier.models.shapes import Shapes
from methods.sheared_llama.masks import Drawn
from methods.sheared_llama.target import Sizes, Target

SHAPE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 6,
    "max_position_embeddings": 32, "tie_word_embeddings": False, "rms_norm_eps": 1e-3,
}  # fmt: skip
SIZES = Sizes(layers=2, hidden=16, heads=4, ffn=13)


def stock(dtype: torch.dtype = torch.float64, family: str = "Llama", **changes: Any) -> Any:
    """A random model whose gains and biases are no constants."""
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **changes})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(dtype).eval()
    for name, parameter in model.named_parameters():
        scale = 0.2 if parameter.dim() == 1 else 0.3
        start = 1.0 if "norm" in name else 0.0
        parameter.data.copy_(start + scale * torch.randn(parameter.shape, dtype=dtype))
    return model


def shapes_of(model: Any) -> Shapes:
    return Shapes.of({**model.config.to_dict(), "model_type": model.config.model_type})


def target_of(model: Any) -> Target:
    return Target.of(shapes_of(model), SIZES)


def ids(rows: int = 2, tokens: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, SHAPE["vocab_size"], (rows, tokens), generator=generator)


def random_masks(shapes: Shapes, dtype: torch.dtype = torch.float64) -> Drawn:
    """Values below, at and above 0, cut off at 0 and 1 as sampled ones are; one layer is 0."""
    generator = torch.Generator().manual_seed(2)

    def values(*shape: int) -> Tensor:
        return (1.6 * torch.rand(shape, generator=generator) - 0.3).clamp(0, 1).to(dtype)

    layers = values(shapes.layers)
    layers[1] = 0
    return Drawn(
        values(shapes.hidden),
        values(shapes.layers, shapes.kv_heads),
        values(shapes.layers, shapes.intermediate),
        layers,
    )


def masked_logits(model: Any, masks: Drawn, tokens: Tensor) -> Tensor:
    """The masked model's logits [B, T, V], of its weights alone, a head and a product at a time."""
    weights, config = dict(model.named_parameters()), model.config
    shapes, z = shapes_of(model), masks.hidden
    group, head_dim, length = shapes.heads // shapes.kv_heads, shapes.head_dim, tokens.shape[1]
    there = z > 0
    cos, sin = rotations(model, length)
    causal = torch.ones(length, length, dtype=torch.bool).tril()

    def norm(states: Tensor, name: str) -> Tensor:
        variance = states[..., there].square().mean(-1, keepdim=True)
        return z * weights[f"{name}.weight"] * states / (variance + config.rms_norm_eps).sqrt()

    def product(states: Tensor, name: str) -> Tensor:
        found = states @ weights[f"{name}.weight"].T
        bias = weights.get(f"{name}.bias")
        return found if bias is None else found + bias

    def turned(states: Tensor) -> Tensor:
        one, two = states.chunk(2, dim=-1)
        return states * cos + torch.cat((-two, one), dim=-1) * sin

    x = z * weights["model.embed_tokens.weight"][tokens]
    for layer in range(shapes.layers):
        at, y = f"model.layers.{layer}", masks.layers[layer]
        read = norm(x, f"{at}.input_layernorm")
        q, k, v = (product(read, f"{at}.self_attn.{n}_proj") for n in "qkv")
        contexts = []
        for head in range(shapes.heads):
            kv = slice(head // group * head_dim, (head // group + 1) * head_dim)
            query = turned(q[..., head * head_dim : (head + 1) * head_dim])
            scores = query @ turned(k[..., kv]).transpose(1, 2) / head_dim**0.5
            shares = scores.masked_fill(~causal, float("-inf")).softmax(-1)
            contexts.append(masks.heads[layer, head // group] * (shares @ v[..., kv]))
        x = x + y * z * product(torch.cat(contexts, dim=-1), f"{at}.self_attn.o_proj")
        read = norm(x, f"{at}.post_attention_layernorm")
        gate = product(read, f"{at}.mlp.gate_proj")
        up = masks.neurons[layer] * product(read, f"{at}.mlp.up_proj")
        inner = gate * gate.sigmoid() * up
        x = x + y * z * product(inner, f"{at}.mlp.down_proj")
    last = "model.embed_tokens" if shapes.tied else "lm_head"
    return norm(x, "model.norm") @ weights[f"{last}.weight"].T


def rotations(model: Any, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, head_dim], rounded to float32 as stock models do."""
    size = shapes_of(model).head_dim
    speeds = 1 / 10000 ** (torch.arange(0, size, 2).float() / size)
    angles = torch.arange(length).float()[:, None] * speeds
    angles = torch.cat((angles, angles), dim=-1)
    dtype = next(model.parameters()).dtype
    return angles.cos().to(dtype), angles.sin().to(dtype)
