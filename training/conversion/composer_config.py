"""Of which models Sheared-LLaMA's Llama computes the same, and the config.json of its weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from espalier.errors import InputError
from espalier.models.content import with_dtype
from espalier.models.shapes import Shapes
from training.conversion.composer_names import EMBEDDING, HEAD, NUMBER, in_block

THETA = 10000.0
"""Of its rotary angles, whatever the configuration states."""


def require_same_model(config: Mapping[str, Any], name: str) -> None:
    """Refuse a model that the same weights do not make under Composer.

    Raises:
        InputError: another family, activation or rotation than the published code has.
    """
    rope = {"rope_theta": config.get("rope_theta"), **(config.get("rope_scaling") or {})}
    rope |= config.get("rope_parameters") or {}
    theta = float(rope.get("rope_theta") or THETA)
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    has = {
        "model_type": (config.get("model_type"), "llama"),
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "rope_theta": (theta, THETA),
        "rotary scaling": (kind, "default"),
    }
    for what, (found, wanted) in has.items():
        if found != wanted:
            raise InputError(
                f"{name} has {what} {found} and Sheared-LLaMA's Composer model computes with "
                f"{wanted} alone: it would give other logits; give a model that has it."
            )


def config_of(state: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A config.json's content with the sizes that tensors have, by their Composer names.

    Only the head's width is the config's: no tensor shows it. A head that is another tensor than
    the embedding is not tied, whatever the config says.

    Raises:
        InputError: there is no block, a tensor that shows a size is missing or is no matrix, or
            heads do not divide.
    """
    blocks = [int(found[1]) for key in state if (found := NUMBER.match(key))]
    if not blocks:
        raise InputError(
            f"{name} holds no transformer.blocks of Sheared-LLaMA's Composer model; give the state "
            "dict of one."
        )
    vocabulary, hidden = _matrix(state, EMBEDDING, name)
    width = Shapes.of(config).head_dim
    heads = {
        key: _divided(state, in_block(0, place), width, name)
        for key, place in (("num_attention_heads", "attn.wq"), ("num_key_value_heads", "attn.wk"))
    }
    made = {
        **config,
        **heads,
        "num_hidden_layers": max(blocks) + 1,
        "hidden_size": hidden,
        "intermediate_size": _matrix(state, in_block(0, "mlp.gate_proj"), name)[0],
        "vocab_size": vocabulary,
        "tie_word_embeddings": _tied(state, bool(config.get("tie_word_embeddings"))),
    }
    if "head_dim" in config or heads["num_attention_heads"] * width != hidden:
        made["head_dim"] = width
    return with_dtype(made, dtype_of(state[in_block(0, "attn.wq")]))


def dtype_of(tensor: Tensor) -> str:
    """As config.json writes it: `bfloat16`."""
    return str(tensor.dtype).removeprefix("torch.")


def _tied(state: Mapping[str, Tensor], stated: bool) -> bool:
    head, embedding = state.get(HEAD), state[EMBEDDING]
    return stated and (
        head is None or (head.shape == embedding.shape and bool((head == embedding).all()))
    )


def _divided(state: Mapping[str, Tensor], key: str, width: int, name: str) -> int:
    """How many heads of this width a matrix has rows for."""
    rows = _matrix(state, key, name)[0]
    if rows % width or not rows:
        raise InputError(
            f"{key} of {name} has {rows} rows, which are no heads of {width} as MODEL has them; "
            "give a MODEL whose heads are as wide as those of the model that was trained."
        )
    return rows // width


def _matrix(state: Mapping[str, Tensor], key: str, name: str) -> tuple[int, int]:
    """The sizes of a matrix.

    Raises:
        InputError: it is missing, or is none.
    """
    if key not in state:
        raise InputError(f"{name} lacks the tensor {key}; save the whole state dict.")
    if state[key].dim() != 2:
        raise InputError(
            f"{key} of {name} has shape {list(state[key].shape)}, where a matrix belongs; give the "
            "state dict as it was trained, not flattened or sharded."
        )
    rows, columns = state[key].shape
    return rows, columns
