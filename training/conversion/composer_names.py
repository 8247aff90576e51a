"""What Sheared-LLaMA's Llama, which Composer trains, calls a Llama's tensors. Needs no torch.

The published code (Xia et al., 2023, arXiv 2310.06694) has a Llama of its own with these names. No
axis is ordered otherwise than Hugging Face has it, and nothing is scaled or permuted.
"""

import re

PREFIX = "model."
"""Before every name of a whole model; its inner module alone has none."""
BODY = f"{PREFIX}transformer."
BLOCK = f"{BODY}blocks."
EMBEDDING, FINAL_NORM, HEAD = f"{BODY}wte.weight", f"{BODY}ln_f.weight", f"{BODY}output.weight"
IN_BLOCK = {
    "ln_1": "input_layernorm",
    "attn.wq": "self_attn.q_proj",
    "attn.wk": "self_attn.k_proj",
    "attn.wv": "self_attn.v_proj",
    "attn.out_proj": "self_attn.o_proj",
    "ln_2": "post_attention_layernorm",
    "mlp.gate_proj": "mlp.gate_proj",
    "mlp.up_proj": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
}
"""A block's weights, each with what Hugging Face calls it within a layer."""
NUMBER = re.compile(rf"{re.escape(BLOCK)}(\d+)\.")
ROTARY = re.compile(r"(^|\.)rotary\w*\.")
"""Tables that follow from the configuration and are no weights."""
MASKS = re.compile(r"(^|\.)l0_module(\.|$)|mask|(^|[._])z_|_z$")
"""What is learned beside the weights, and decides which of them are left."""


def hugging_face_names(blocks: int) -> dict[str, str]:
    """Every name of a model of so many blocks, with Hugging Face's for it."""
    names = {EMBEDDING: "model.embed_tokens.weight"}
    for block in range(blocks):
        for name, in_layer in IN_BLOCK.items():
            names[in_block(block, name)] = f"model.layers.{block}.{in_layer}.weight"
    return names | {FINAL_NORM: "model.norm.weight", HEAD: "lm_head.weight"}


def in_block(block: int, name: str) -> str:
    """`model.transformer.blocks.0.attn.wq.weight`."""
    return f"{BLOCK}{block}.{name}.weight"
