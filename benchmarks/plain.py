"""The same algorithms written plainly: the whole model, one sample at a time, full sorts.

What a straightforward script does, for comparison: statistics and a Hessian for each of the seven
matrices, every projection computed in both passes, three factorisations.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 128
DAMPING = 0.01


def prune(model_path: Path, output: Path, method: str, input_ids: Tensor, sparsity: float) -> None:
    """Prune the whole model at `model_path` by `method` and save it to `output`."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        model_path, torch_dtype="auto", attn_implementation="sdpa"
    ).eval()
    with torch.no_grad():
        if method == "magnitude":
            for layer in model.model.layers:
                for linear in _linears(layer).values():
                    _magnitude(linear.weight.data, sparsity)
        else:
            _calibrated(model.model, method, input_ids, sparsity)
    model.save_pretrained(output)


def _calibrated(decoder: Any, method: str, input_ids: Tensor, sparsity: float) -> None:
    hidden = [decoder.embed_tokens(row[None]) for row in input_ids]
    positions = torch.arange(input_ids.shape[1])[None]
    rotary = decoder.rotary_emb(hidden[0], positions)
    statistic = {"wanda": _Norms, "sparsegpt": _Hessian}[method]
    solve: Callable[..., None] = {"wanda": _wanda, "sparsegpt": _sparsegpt}[method]
    for layer in decoder.layers:
        linears = _linears(layer)
        statistics = {name: statistic(linear.in_features) for name, linear in linears.items()}
        hooks = [
            linear.register_forward_hook(statistics[name].hook) for name, linear in linears.items()
        ]
        for x in hidden:
            _forward(layer, x, positions, rotary)
        for hook in hooks:
            hook.remove()
        for name, linear in linears.items():
            solve(linear.weight.data, statistics[name], sparsity)
        hidden = [_forward(layer, x, positions, rotary) for x in hidden]


def _linears(layer: nn.Module) -> dict[str, nn.Linear]:
    return {name: m for name, m in layer.named_modules() if isinstance(m, nn.Linear)}


def _forward(layer: nn.Module, x: Tensor, positions: Tensor, rotary: Any) -> Tensor:
    output = layer(x, position_ids=positions, position_embeddings=rotary)
    return output[0] if isinstance(output, tuple) else output


class _Norms:
    def __init__(self, features: int) -> None:
        self.mean, self.samples = torch.zeros(features), 0

    def hook(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0][0].float()  # [T, C]
        self.mean *= self.samples / (self.samples + 1)
        self.samples += 1
        self.mean += x.norm(dim=0).square() / self.samples


class _Hessian:
    def __init__(self, features: int) -> None:
        self.matrix, self.samples = torch.zeros(features, features), 0

    def hook(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0][0].float()  # [T, C]
        self.matrix *= self.samples / (self.samples + 1)
        self.samples += 1
        x = x * (2 / self.samples) ** 0.5
        self.matrix += x.T @ x


def _magnitude(weight: Tensor, sparsity: float) -> None:
    score = weight.abs()
    threshold = score.flatten().sort().values[int(weight.numel() * sparsity)]
    weight[score <= threshold] = 0


def _wanda(weight: Tensor, norms: _Norms, sparsity: float) -> None:
    score = weight.abs() * norms.mean.sqrt()
    order = score.sort(dim=1, stable=True).indices[:, : int(weight.shape[1] * sparsity)]
    weight.scatter_(1, order, 0)


def _sparsegpt(weight: Tensor, hessian: _Hessian, sparsity: float) -> None:
    w, h = weight.float(), hessian.matrix
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    w[:, dead] = 0
    h.diagonal().add_(DAMPING * h.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    upper = torch.linalg.cholesky(inverse, upper=True)
    for start in range(0, w.shape[1], BLOCK):
        stop = min(start + BLOCK, w.shape[1])
        block, u = w[:, start:stop].clone(), upper[start:stop, start:stop]
        score = (block / u.diagonal()).square()
        mask = score <= score.flatten().sort().values[int(score.numel() * sparsity)]
        errors = torch.zeros_like(block)
        for i in range(stop - start):
            column = block[:, i]
            kept = column.masked_fill(mask[:, i], 0)
            errors[:, i] = (column - kept) / u[i, i]
            block[:, i:] -= errors[:, i : i + 1] @ u[i : i + 1, i:]
            w[:, start + i] = kept
        w[:, stop:] -= errors @ upper[start:stop, stop:]
    weight.copy_(w)
