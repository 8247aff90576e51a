"""Random bfloat16 checkpoints of real shapes, written a layer at a time."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.contract.json_text import to_json
from espalier.models.checkpoint.header import read_header
from espalier.models.checkpoint.locate import INDEX
from espalier.models.checkpoint.writer import write_safetensors
from espalier.models.shapes import Shapes

_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tinyllama": {
        **_LLAMA,
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "tie_word_embeddings": False,
    },
    "1b": {
        **_LLAMA,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "8b": {
        **_LLAMA,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "head_dim": 128,
        "tie_word_embeddings": False,
    },
}
BLOCK_ROWS = 16384


def checkpoint(cache: Path, shape: str, layers: int, width: float = 1.0) -> Path:
    """The checkpoint of that shape, depth and fraction of its widths, made where absent."""
    config = dict(SHAPES[shape], num_hidden_layers=layers)
    for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        config[key] = int(config[key] * width)
    directory = cache / f"{shape}-{layers}-layers-{width:g}"
    if (directory / "config.json").is_file():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    shapes = Shapes.of(config)
    generator = torch.Generator().manual_seed(0)
    units: list[dict[str, tuple[int, ...]]] = []
    for i in range(layers):
        prefix = f"model.layers.{i}."
        unit: dict[str, tuple[int, ...]] = {
            f"{prefix}{name}.weight": matrix for name, matrix in shapes.matrices.items()
        }
        for norm in ("input_layernorm", "post_attention_layernorm"):
            unit[f"{prefix}{norm}.weight"] = (shapes.hidden,)
        units.append(unit)
    units.append({"model.norm.weight": (shapes.hidden,)})
    units.append({"model.embed_tokens.weight": (shapes.vocabulary, shapes.hidden)})
    if not shapes.tied:
        units.append({"lm_head.weight": (shapes.vocabulary, shapes.hidden)})
    weight_map = {}
    for number, unit in enumerate(units, start=1):
        file = directory / f"model-{number:05}-of-{len(units):05}.safetensors"
        write_safetensors(file, {n: _random(s, generator) for n, s in unit.items()})
        weight_map |= dict.fromkeys(read_header(file), file.name)
    (directory / INDEX).write_text(to_json({"metadata": {}, "weight_map": weight_map}))
    (directory / "config.json").write_text(to_json(config, indent=1))
    return directory


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    tensor = torch.empty(shape, dtype=torch.bfloat16)
    for rows in tensor.split(BLOCK_ROWS):
        rows.copy_(torch.randn(rows.shape, generator=generator) * shape[1] ** -0.5)
    return tensor
