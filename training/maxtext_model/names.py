"""Which MaxText parameter holds which Hugging Face tensor, and how each looks as the other.

Hugging Face keeps [outputs, inputs], MaxText [inputs, outputs] with heads as axes of their own, and
`scanned` layers stacked along axis 1. Queries and keys keep Hugging Face's half-split rotary
layout and queries are not scaled: the model here rotates and scales as the stock one does, so
that nothing but the order of a weight's axes changes.

Shapes: H hidden, N heads, D head_dim, L layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from espalier.models.shapes import Shapes

Path = tuple[str, ...]
STACKED_AXIS = 1
IN_LAYER: dict[str, Path] = {
    "self_attn.q_proj.weight": ("self_attention", "query", "kernel"),
    "self_attn.k_proj.weight": ("self_attention", "key", "kernel"),
    "self_attn.v_proj.weight": ("self_attention", "value", "kernel"),
    "self_attn.o_proj.weight": ("self_attention", "out", "kernel"),
    "mlp.gate_proj.weight": ("mlp", "wi_0", "kernel"),
    "mlp.up_proj.weight": ("mlp", "wi_1", "kernel"),
    "mlp.down_proj.weight": ("mlp", "wo", "kernel"),
    "input_layernorm.weight": ("pre_self_attention_layer_norm", "scale"),
    "post_attention_layernorm.weight": ("post_self_attention_layer_norm", "scale"),
}


@dataclass(frozen=True)
class Weight:
    """One Hugging Face tensor and its place.

    Attributes:
        name: Hugging Face's.
        path: of MaxText's parameter.
        layer: where it lies in a parameter that stacks layers; None: it is the whole one.
        shape: MaxText's, of this tensor alone.
        stored: Hugging Face's shape.
    """

    name: str
    path: Path
    layer: int | None
    shape: tuple[int, ...]
    stored: tuple[int, ...]

    def to_maxtext(self, tensor: Any) -> Any:
        """[outputs, inputs] as MaxText has it; a view where that is possible."""
        if self.path == ("token_embedder", "embedding"):
            return tensor
        return tensor.T.reshape(self.shape)

    def to_hugging_face(self, array: Any) -> Any:
        """The inverse of `to_maxtext`."""
        if self.path == ("token_embedder", "embedding"):
            return array
        return array.reshape(self.stored[::-1]).T


def weights(shapes: Shapes, *, scanned: bool) -> Iterator[Weight]:
    """Every tensor of a model, in the order of its layers; a tied head is none."""
    hidden = shapes.hidden
    embedding = (shapes.vocabulary, hidden)
    yield Weight(
        "model.embed_tokens.weight", ("token_embedder", "embedding"), None, embedding, embedding
    )
    for layer in range(shapes.layers):
        for name, path in IN_LAYER.items():
            place = ("decoder", "layers" if scanned else f"layers_{layer}", *path)
            mine, theirs = _shapes_of(name, shapes)
            yield Weight(
                f"model.layers.{layer}.{name}", place, layer if scanned else None, mine, theirs
            )
    yield Weight(
        "model.norm.weight", ("decoder", "decoder_norm", "scale"), None, (hidden,), (hidden,)
    )
    if not shapes.tied:
        head = ("decoder", "logits_dense", "kernel")
        yield Weight("lm_head.weight", head, None, embedding[::-1], embedding)


def _shapes_of(name: str, shapes: Shapes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """MaxText's and Hugging Face's shape of a layer's tensor."""
    if "layernorm" in name:
        return (shapes.hidden,), (shapes.hidden,)
    stored = shapes.matrices[name.removesuffix(".weight")]
    heads = {"self_attn.q_proj.weight": shapes.heads}.get(name, shapes.kv_heads)
    if name == "self_attn.o_proj.weight":
        return (shapes.heads, shapes.head_dim, shapes.hidden), stored
    if name.startswith("self_attn"):
        return (shapes.hidden, heads, shapes.head_dim), stored
    return stored[::-1], stored
