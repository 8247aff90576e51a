"""GGUF files of tiny Hugging Face checkpoints, written by gguf's own writer as llama.cpp's
converter does: rows of queries and keys permuted, norms in float32."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFEndian, GGUFWriter, TokenType, quantize

from tests.unit.tiny_checkpoints import load_all

PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
BYTES = [f"<0x{number:02X}>" for number in range(256)]


def write_gguf(
    path: Path,
    model: Path,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    *,
    vocabulary: Mapping[str, Any] | None = None,
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray[Any, Any] | None] | None = None,
    order: GGUFEndian = GGUFEndian.LITTLE,
) -> Path:
    """Write `model` with its matrices as `kind`.

    `vocabulary` are keys below `tokenizer.ggml.`, `keys` others (None leaves one out), `tensors`
    more tensors (None leaves one out).
    """
    config = json.loads((model / "config.json").read_text())
    family = config["model_type"]
    writer = GGUFWriter(path, family, endianess=order)
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
    values: dict[str, Any] = {
        f"{family}.block_count": config["num_hidden_layers"],
        f"{family}.context_length": config["max_position_embeddings"],
        f"{family}.embedding_length": config["hidden_size"],
        f"{family}.feed_forward_length": config["intermediate_size"],
        f"{family}.attention.head_count": config["num_attention_heads"],
        f"{family}.attention.head_count_kv": config["num_key_value_heads"],
        f"{family}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{family}.rope.freq_base": float(rope["rope_theta"]),
        "general.license": "mit",
    }
    tables = bytes_only(config["vocab_size"]) if vocabulary is None else vocabulary
    values |= {f"tokenizer.ggml.{name}": value for name, value in tables.items()}
    for key, value in {**values, **(keys or {})}.items():
        _add(writer, key, value)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    written = {}
    for name, tensor in load_all(model).items():
        stored = _stored_name(name)
        weights = tensor.float().numpy()
        part = stored.split(".")[-2]
        if family == "llama" and part in heads:
            weights = permuted(weights, heads[part])
        written[stored] = weights
    for name, weights in {**written, **(tensors or {})}.items():
        if weights is not None:
            as_kind = kind if weights.ndim > 1 else GGMLQuantizationType.F32
            writer.add_tensor(name, quantize(weights, as_kind), raw_dtype=as_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def permuted(weights: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """As llama.cpp's converter has it (`LlamaModel.permute`)."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))


def bytes_only(rows: int) -> dict[str, Any]:
    """A SentencePiece vocabulary of bytes for an embedding of `rows`, the first or all of them."""
    tokens = ["<unk>", "<s>", "</s>", *BYTES][:rows]
    unused = [f"[PAD{number}]" for number in range(len(tokens), rows)]
    special = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    kinds = [*special, *[TokenType.BYTE] * 256][:rows] + [TokenType.UNUSED] * len(unused)
    return pieces([*tokens, *unused], [0.0] * rows, kinds)


def pieces(tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> dict[str, Any]:
    """The keys of a SentencePiece vocabulary."""
    return {
        "model": "llama",
        "tokens": list(tokens),
        "scores": [float(score) for score in scores],
        "token_type": [int(kind) for kind in kinds],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }


def byte_pairs(tokenizer: Any, rule: str) -> dict[str, Any]:
    """The keys of a byte-level tokenizer of transformers."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    table = tokenizer.get_vocab()
    tokens = sorted(table, key=lambda token: int(table[token]))
    special = set(tokenizer.all_special_tokens)
    merges = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
    return {
        "model": "gpt2",
        "pre": rule,
        "tokens": tokens,
        "token_type": [
            int(TokenType.CONTROL if token in special else TokenType.NORMAL) for token in tokens
        ],
        "merges": merges,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _stored_name(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    _, _, layer, rest = name.split(".", 3)
    part, _, leaf = rest.rpartition(".")
    return f"blk.{layer}.{PARTS[part]}.{leaf}"
