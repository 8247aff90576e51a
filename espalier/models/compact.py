"""Loads a model whose layers have widths of their own: stock layers, each of its own size."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espalier.errors import InputError
from espalier.models.filled import filled
from espalier.models.narrow import Widths, widths_of
from espalier.models.shapes import config_file, read_config
from espalier.models.stock import stock_config, stock_model, without_requests

STOCK_CONFIG = "padded_config.json"
"""config.json of the padded model, which stock loaders read: beside the form's own."""


class _Bias(nn.Module):  # type: ignore[misc]
    """In place of an attention or FFN that has nothing left: its bias, if it has one."""

    def __init__(self, name: str, bias: Tensor | None, *, attention: bool) -> None:
        super().__init__()
        self._name, self._attention = name, attention
        projection = nn.Module()
        projection.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        self.add_module(name, projection)

    def forward(self, hidden_states: Tensor, **_: Any) -> Any:
        """Of hidden states [B, T, H]; attention gives its weights too, of which there are none."""
        bias = self.get_submodule(self._name).bias
        added = torch.zeros_like(hidden_states)  # [B, T, H]
        added = added if bias is None else added + bias
        return (added, None) if self._attention else added


def load_compact(directory: Path, dtype: Any = None) -> Any:
    """The causal language model of a compact checkpoint, in evaluation mode, on the host.

    Args:
        directory: of either form that `espalier.models.narrow` describes.
        dtype: a torch dtype; default that in which the weights are stored.

    Raises:
        InputError: the weights are not those that config.json describes.
    """
    widths = widths_of(read_config(directory))
    config = without_requests(stock_config(padded_config(directory)))
    with torch.device("meta"):
        model = stock_model(config)
        for number, stock in enumerate(model.model.layers):
            model.model.layers[number] = _layer(stock, config, widths[number], number)
    model = filled(model, directory, dtype)
    if any(not layer.heads for layer in widths):
        model.config.use_cache = False  # its length would be read off the first layer
    return model


def padded_config(directory: Path) -> dict[str, Any]:
    """The content of config.json of the padded model that a compact one comes from.

    Raises:
        InputError: it is not there.
    """
    try:
        return config_file(directory / STOCK_CONFIG)
    except InputError:
        raise InputError(
            f"{directory} has no {STOCK_CONFIG} that can be read; make it again with make compact."
        ) from None


def _layer(stock: nn.Module, config: Any, widths: Widths, number: int) -> nn.Module:
    sized = copy.deepcopy(config)
    sized.head_dim = stock.get_submodule("self_attn").head_dim
    sized.num_attention_heads = widths.heads or config.num_attention_heads
    sized.num_key_value_heads = widths.kv_heads or config.num_key_value_heads
    sized.intermediate_size = widths.neurons or config.intermediate_size
    layer: nn.Module = type(stock)(sized, number)
    for part, projection, width in (
        ("self_attn", "o_proj", widths.heads),
        ("mlp", "down_proj", widths.neurons),
    ):
        if not width:
            bias = layer.get_submodule(f"{part}.{projection}").bias
            nothing = _Bias(projection, bias, attention=part == "self_attn")
            setattr(layer, part, nothing)
    return layer
