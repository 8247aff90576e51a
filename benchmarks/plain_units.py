"""FLAP (WIFV, AL-AM) and Wanda-sp as plain loops: the whole model, a sample at a time, two passes.

As the published code goes: every layer is run once for its statistics and once for its outputs,
what is removed is zeroed in place, and the model is saved as wide as it was.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Kept = list[tuple[list[int], list[int]]]
"""Of each layer key-value heads and neurons."""


def prune(model_path: Path, output: Path, method: str, input_ids: Tensor, sparsity: float) -> Kept:
    """Prune the whole model at `model_path` by `method` and save it to `output`."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        model_path, torch_dtype="auto", attn_implementation="sdpa"
    ).eval()
    with torch.no_grad():
        kept = _flap(model, input_ids, sparsity) if method == "flap" else _wanda_sp(
            model, input_ids, sparsity
        )  # fmt: skip
    model.save_pretrained(output)
    return kept


def _flap(model: Any, input_ids: Tensor, sparsity: float) -> Kept:
    seen, heads, neurons = [], [], []
    decoder = _Passes(model, input_ids)
    for layer in model.model.layers:
        statistics = [_Fluctuation(part.in_features) for part in _parts(layer)]
        decoder.run(layer, statistics)
        decoder.advance(layer)
        scores = [
            statistic.fluctuation * part.weight.float().square().sum(dim=0)
            for statistic, part in zip(statistics, _parts(layer), strict=True)
        ]
        seen.append([statistic.mean for statistic in statistics])
        heads.append(_grouped(_standardized(scores[0].square()), model.config).mean(dim=(1, 2)))
        neurons.append(_standardized(scores[1]))
    weight = (2 * _queries(model.config) + 2) * _head_dim(model.config) / 3
    listed = torch.cat([*heads, *neurons])
    weights = torch.ones_like(listed)
    weights[: sum(map(len, heads))] = weight
    order = listed.argsort(descending=True)
    summed = weights[order].double().cumsum(dim=0)
    cut = listed[order[(summed - weights.double().sum() * (1 - sparsity)).abs().argmin()]]
    masks = [(h > cut, n > cut) for h, n in zip(heads, neurons, strict=True)]
    for layer, (kept_heads, kept_neurons), means in zip(
        model.model.layers, masks, seen, strict=True
    ):
        columns = _columns(kept_heads, model.config), kept_neurons
        for part, stays, mean in zip(_parts(layer), columns, means, strict=True):
            part.bias = nn.Parameter((part.weight.float() @ (mean * ~stays)).to(part.weight.dtype))
            part.weight.data[:, ~stays] = 0
    return [_indices(*each) for each in masks]


def _wanda_sp(model: Any, input_ids: Tensor, sparsity: float) -> Kept:
    found, decoder = [], _Passes(model, input_ids)
    for layer in model.model.layers:
        statistics = [_Norms(part.in_features) for part in _parts(layer)]
        decoder.run(layer, statistics)
        scores = [
            (part.weight.abs().float() * statistic.mean.sqrt()).mean(dim=0)
            for statistic, part in zip(statistics, _parts(layer), strict=True)
        ]
        units = _grouped(scores[0], model.config).sum(dim=2).mean(dim=1), scores[1]
        masks = [each >= each.sort().values[int(sparsity * len(each))] for each in units]
        columns = _columns(masks[0], model.config), masks[1]
        for part, stays in zip(_parts(layer), columns, strict=True):
            part.weight.data[:, ~stays] = 0
        decoder.advance(layer)
        found.append(_indices(*masks))
    return found


class _Passes:
    """Every sample's hidden states, and a layer run on them one by one."""

    def __init__(self, model: Any, input_ids: Tensor) -> None:
        self._hidden = [model.model.embed_tokens(row[None]) for row in input_ids]
        self._positions = torch.arange(input_ids.shape[1])[None]
        self._rotary = model.model.rotary_emb(self._hidden[0], self._positions)

    def run(self, layer: Any, statistics: list[Any]) -> None:
        hooks = [
            part.register_forward_hook(statistic.hook)
            for part, statistic in zip(_parts(layer), statistics, strict=True)
        ]
        for hidden in self._hidden:
            self._forward(layer, hidden)
        for hook in hooks:
            hook.remove()

    def advance(self, layer: Any) -> None:
        self._hidden = [self._forward(layer, hidden) for hidden in self._hidden]

    def _forward(self, layer: Any, hidden: Tensor) -> Tensor:
        output = layer(hidden, position_ids=self._positions, position_embeddings=self._rotary)
        return output[0] if isinstance(output, tuple) else output


class _Fluctuation:
    def __init__(self, features: int) -> None:
        self.mean, self.fluctuation = torch.zeros(features), torch.zeros(features)
        self._samples = 0

    def hook(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0][0].float()  # [T, C]
        self._samples += 1
        count, before = self._samples, self._samples - 1
        self.mean = self.mean * before / count + x.mean(dim=0) / count
        if before:
            self.fluctuation = self.fluctuation * (before - 1) / before
            self.fluctuation += (x - self.mean).square().sum(dim=0) / count


class _Norms:
    def __init__(self, features: int) -> None:
        self.mean, self._samples = torch.zeros(features), 0

    def hook(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0][0].float()  # [T, C]
        self._samples += 1
        count = self._samples
        self.mean = self.mean * (count - 1) / count + x.norm(dim=0).square() / count


def _parts(layer: Any) -> tuple[Any, Any]:
    return layer.self_attn.o_proj, layer.mlp.down_proj


def _queries(config: Any) -> int:
    return int(config.num_attention_heads // config.num_key_value_heads)


def _head_dim(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _grouped(features: Tensor, config: Any) -> Tensor:
    return features.view(config.num_key_value_heads, _queries(config), _head_dim(config))


def _columns(heads: Tensor, config: Any) -> Tensor:
    return heads.repeat_interleave(_queries(config) * _head_dim(config))


def _standardized(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std()


def _indices(heads: Tensor, neurons: Tensor) -> tuple[list[int], list[int]]:
    return heads.nonzero()[:, 0].tolist(), neurons.nonzero()[:, 0].tolist()
