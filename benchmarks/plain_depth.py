"""The depth search as a plain loop: the whole model in memory, run anew for every block."""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from espalier.pruning.parameters import default_batch


def perplexities(model_path: Path, input_ids: Tensor, left: int) -> list[float]:
    """Of the whole model, then without each block that leaves `left` layers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        model_path, torch_dtype="auto", attn_implementation="sdpa"
    ).eval()
    layers = model.model.layers
    found = [_perplexity(model, input_ids)]
    count = len(layers) - left
    for first in range(left + 1):
        kept = [layer for i, layer in enumerate(layers) if not first <= i < first + count]
        model.model.layers = nn.ModuleList(kept)
        found.append(_perplexity(model, input_ids))
    return found


def removed_one_by_one(model_path: Path, input_ids: Tensor, gone: int) -> dict[str, Any]:
    """SLEB: of each round the layer without which the loss is least, first and last excepted."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        model_path, torch_dtype="auto", attn_implementation="sdpa"
    ).eval()
    alive = list(enumerate(model.model.layers))
    order, losses, runs = [], [], 0
    for _ in range(gone):
        found = {}
        for place in range(len(alive)):
            if alive[place][0] in (0, len(model.model.layers) - 1):
                continue
            rest = [layer for other, (_, layer) in enumerate(alive) if other != place]
            found[place] = math.log(_perplexity(_with_layers(model, rest), input_ids))
            runs += len(rest)
        best = min(found, key=lambda place: found[place])
        losses.append(found[best])
        order.append(alive.pop(best)[0])
    return {"order": order, "losses": losses, "runs": runs}


def _with_layers(model: Any, layers: list[nn.Module]) -> Any:
    """The same model with some of its layers."""
    shorter = copy.copy(model)
    shorter._modules = {**model._modules, "model": copy.copy(model.model)}
    shorter.model._modules = {**model.model._modules, "layers": nn.ModuleList(layers)}
    return shorter


def _perplexity(model: Any, input_ids: Tensor) -> float:
    losses = []
    with torch.inference_mode():
        for ids in input_ids.split(default_batch(input_ids.shape[1])):
            logits = model(ids, use_cache=False).logits
            for row, tokens in zip(logits, ids, strict=True):
                losses.append(float(cross_entropy(row[:-1].float(), tokens[1:])))
    return math.exp(sum(losses) / len(losses))
