"""config.json from a GGUF file's values and the shapes of its tensors."""

from typing import Any

from espalier.errors import InputError
from inputs.gguf.family import family_of
from inputs.gguf.file import GgufFile
from inputs.gguf.rope import rope_scaling

EMBEDDING, HEAD, QUERIES = "token_embd.weight", "output.weight", "blk.0.attn_q.weight"
DEFAULT_THETA = 10000.0
"""What llama.cpp takes where a file says nothing."""


def config_of(file: GgufFile) -> dict[str, Any]:
    """The stock configuration of the model in the file.

    Raises:
        InputError: a size is missing, or the model differs from the stock one.
    """
    family = family_of(file)
    for name in (EMBEDDING, QUERIES):
        if name not in file.tensors:
            raise InputError(f"{file.path.name} lacks the tensor {name}; download it again.")
    heads = file.count("attention.head_count")
    kv_heads = file.count("attention.head_count_kv", heads)
    if len(file.shape(QUERIES)) != 2 or file.shape(QUERIES)[0] < heads:
        raise InputError(
            f"{QUERIES} of {file.path.name} is {list(file.shape(QUERIES))} for {heads} heads; "
            "convert the model to GGUF again."
        )
    rows, hidden = file.shape(QUERIES)
    head_dim = rows // heads
    if (rotated := file.own("rope.dimension_count", head_dim)) != head_dim:
        raise InputError(
            f"{file.path.name} rotates {rotated} of {head_dim} channels of a head, which is not "
            "supported."
        )
    theta = file.number("rope.freq_base", DEFAULT_THETA)
    if theta < 1:
        raise InputError(f"{file.path.name} states rope.freq_base as {theta}; convert it again.")
    if (layers := file.count("block_count")) > len(file.tensors):
        raise InputError(
            f"{file.path.name} states {layers} layers and holds {len(file.tensors)} tensors; "
            "download it again."
        )
    config: dict[str, Any] = {
        "architectures": [family.stock],
        "model_type": family.model_type,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": file.count("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": file.shape(EMBEDDING)[0],
        "max_position_embeddings": file.count("context_length"),
        "rms_norm_eps": file.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "rope_scaling": rope_scaling(file, theta, head_dim),
        "tie_word_embeddings": HEAD not in file.tensors,
        "torch_dtype": file.dtype,
    }
    if family.permuted:
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    for role in ("bos", "eos"):
        config[f"{role}_token_id"] = file.value(f"tokenizer.ggml.{role}_token_id", kind=int)
    return config
