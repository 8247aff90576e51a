"""Which families of GGUF files are understood, and what their tensors are called elsewhere."""

import re
from dataclasses import dataclass

from espalier.errors import InputError
from inputs.gguf.file import GgufFile


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        model_type: as config.json calls it.
        stock: the stock class.
        permuted: whether llama.cpp keeps the rows of queries and keys in another order, halves of
            a head interleaved.
    """

    model_type: str
    stock: str
    permuted: bool = False


FAMILIES = {
    "llama": Family("llama", "LlamaForCausalLM", permuted=True),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM"),
}
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""A layer's parts: the last word of `blk.<n>.<part>.weight` or `.bias`."""
NO_WEIGHTS = re.compile(r"rope_freqs\.weight|(blk\.\d+\.)?attn_rot_embd\.weight")
"""Tables that config.json states in another way; see `inputs.gguf.rope`."""
BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def family_of(file: GgufFile) -> Family:
    """The family of a file.

    Raises:
        InputError: another than those understood.
    """
    family = FAMILIES.get(file.architecture)
    if family is None:
        raise InputError(
            f"{file.path.name} is of the architecture {file.architecture or 'that it does not say'}"
            f"; GGUF files of {', '.join(FAMILIES)} can be adopted."
        )
    if file.own("expert_count", 0):
        raise InputError(
            f"{file.path.name} is a mixture of {file.own('expert_count')} experts, which is not "
            "supported; give a dense model."
        )
    return family


def stock_names(file: GgufFile) -> dict[str, str]:
    """From the stock model's names to the file's, in the file's order.

    Raises:
        InputError: a tensor has no place in the stock model.
    """
    names = {}
    for name in file.tensors:
        if NO_WEIGHTS.fullmatch(name):
            continue
        block = BLOCK.fullmatch(name)
        if block and block[2] in INNER:
            names[f"model.layers.{block[1]}.{INNER[block[2]]}.{block[3]}"] = name
        elif name in OUTER:
            names[OUTER[name]] = name
        else:
            raise InputError(
                f"{file.path.name} holds {name}, which no stock {file.architecture} has; it "
                "cannot be adopted."
            )
    return names
