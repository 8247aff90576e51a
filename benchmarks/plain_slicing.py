"""SliceGPT as a plain loop: the whole model in memory, each layer run twice, sample by sample."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import linear

from methods.slicegpt.algorithm import DAMPING


def spectra(model_path: Path, output: Path, input_ids: Tensor, kept: int) -> list[list[float]]:
    """Slice to `kept` channels, write what is left, and give each site's eigenvalues in order."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        model_path, dtype="auto", attn_implementation="sdpa"
    ).eval()
    decoder, weights, found = model.model, dict[str, Tensor](), list[list[float]]()
    head = model.lm_head.weight.data.clone()
    width, eps = decoder.embed_tokens.weight.shape[1], model.config.rms_norm_eps
    hidden = [decoder.embed_tokens(row[None]) for row in input_ids]
    positions = torch.arange(input_ids.shape[1])[None]
    rotary = decoder.rotary_emb(hidden[0], positions)

    def basis(states: list[Tensor]) -> Tensor:
        moment = sum(x[0].double().T @ x[0].double() for x in states)
        moment += DAMPING * moment.diagonal().mean() * torch.eye(width)
        values, vectors = torch.linalg.eigh(moment)
        found.append(values.flip(0).tolist())
        return vectors.flip(1)

    def norm(x: Tensor) -> Tensor:
        wide = x.float()
        scale = (wide.square().sum(dim=-1, keepdim=True) / width + eps).rsqrt()
        return (wide * scale).to(x.dtype)

    def half(x: Tensor, q: Tensor, part: Any, **given: Any) -> Tensor:
        narrow = linear(x, q.T.to(x.dtype))
        added = part(norm(narrow), **given)
        added = added[0] if isinstance(added, tuple) else added
        return linear(narrow, q.to(x.dtype)) + added

    with torch.no_grad():
        full = basis(hidden)
        before = full[:, :kept]
        weights["embed"] = _reads(decoder.embed_tokens.weight, before)
        for number, layer in enumerate(decoder.layers):
            about = {"position_embeddings": rotary, "attention_mask": None}
            attention, mlp = layer.self_attn, layer.mlp
            gain = layer.input_layernorm.weight.double()
            for matrix in (attention.q_proj, attention.k_proj, attention.v_proj):
                matrix.weight.data = _reads(matrix.weight * gain, before, matrix.weight.dtype)
            middles = [half(x, before, attention, **about) for x in hidden]
            for x in middles:  # the layer is run whole, and its output is not used yet
                mlp(layer.post_attention_layernorm(x))
            middle = basis(middles)[:, :kept]
            gain = layer.post_attention_layernorm.weight.double()
            for matrix in (mlp.gate_proj, mlp.up_proj):
                matrix.weight.data = _reads(matrix.weight * gain, middle, matrix.weight.dtype)
            middles = [half(x, before, attention, **about) for x in hidden]
            hidden = [half(x, middle, mlp) for x in middles]
            full = basis(hidden)
            after = full if number + 1 == len(decoder.layers) else full[:, :kept]
            weights[f"{number}.attn_shortcut"] = (middle.T @ before).to(hidden[0].dtype)
            weights[f"{number}.mlp_shortcut"] = (after.T @ middle).to(hidden[0].dtype)
            for name, matrix, q in (
                ("o", attention.o_proj, middle),
                ("down", mlp.down_proj, after),
            ):
                rotated = q.T @ matrix.weight.double()
                weights[f"{number}.{name}"] = rotated.to(matrix.weight.dtype)
            for matrix_name in ("q_proj", "k_proj", "v_proj"):
                weights[f"{number}.{matrix_name}"] = getattr(attention, matrix_name).weight.data
            for matrix_name in ("gate_proj", "up_proj"):
                weights[f"{number}.{matrix_name}"] = getattr(mlp, matrix_name).weight.data
            before = after
        weights["head"] = _reads(head * decoder.norm.weight.double(), full, head.dtype)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, output)
    return found


def _reads(weight: Tensor, q: Tensor, dtype: Any = None) -> Tensor:
    return (weight.double() @ q).to(dtype or weight.dtype)
