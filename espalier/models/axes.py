"""Which dimension of each tensor is which size of the model. Needs no torch.

Stated once for every method that takes channels, neurons or heads out of a model.
"""

from typing import Literal

Axis = Literal["hidden", "intermediate", "queries", "keys", "head_dim", "vocabulary"]
"""`queries`: heads x head_dim; `keys`: kv_heads x head_dim; the heads are outermost."""

LAYER_AXES: dict[str, tuple[Axis, ...]] = {
    "input_layernorm.weight": ("hidden",),
    "self_attn.q_proj.weight": ("queries", "hidden"),
    "self_attn.q_proj.bias": ("queries",),
    "self_attn.k_proj.weight": ("keys", "hidden"),
    "self_attn.k_proj.bias": ("keys",),
    "self_attn.v_proj.weight": ("keys", "hidden"),
    "self_attn.v_proj.bias": ("keys",),
    "self_attn.q_norm.weight": ("head_dim",),
    "self_attn.k_norm.weight": ("head_dim",),
    "self_attn.o_proj.weight": ("hidden", "queries"),
    "self_attn.o_proj.bias": ("hidden",),
    "post_attention_layernorm.weight": ("hidden",),
    "mlp.gate_proj.weight": ("intermediate", "hidden"),
    "mlp.gate_proj.bias": ("intermediate",),
    "mlp.up_proj.weight": ("intermediate", "hidden"),
    "mlp.up_proj.bias": ("intermediate",),
    "mlp.down_proj.weight": ("hidden", "intermediate"),
    "mlp.down_proj.bias": ("hidden",),
}
OUTER_AXES: dict[str, tuple[Axis, ...]] = {
    "model.embed_tokens.weight": ("vocabulary", "hidden"),
    "model.norm.weight": ("hidden",),
    "lm_head.weight": ("vocabulary", "hidden"),
}


def axes_of(name: str) -> tuple[Axis, ...]:
    """Of a tensor by its full name, such as `model.layers.3.mlp.up_proj.weight`."""
    if name in OUTER_AXES:
        return OUTER_AXES[name]
    return LAYER_AXES[name.removeprefix("model.layers.").partition(".")[2]]
