"""Importance of neurons as a plain loop: the model in float32, and every gradient, in memory."""

from pathlib import Path

import torch
from torch import Tensor


def importances(model_path: Path, input_ids: Tensor) -> list[float]:
    """Of the neurons of all layers, added up layer by layer."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).train()
    model(input_ids, labels=input_ids, use_cache=False).loss.backward()
    return [
        sum(
            float((matrix.weight * matrix.weight.grad).abs().sum())
            for matrix in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
        )
        for layer in model.model.layers
    ]
