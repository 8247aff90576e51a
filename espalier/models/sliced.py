"""Loads a model of the form `espalier-sliced`: stock layers with shortcuts of our own.

Shapes: B samples, T tokens, d channels that are left, D of the parent.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from espalier.errors import EnvironmentFailure, InputError
from espalier.models.adapter import Architecture
from espalier.models.agreement import PROBE_TOKENS, probe_ids
from espalier.models.checkpoint.locate import locate
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.content import stored_dtype
from espalier.models.filled import filled
from espalier.models.products import choose_products, products
from espalier.models.shapes import read_config
from espalier.models.sliced_form import ATTENTION, FFN, NORMS, SlicedForm, sliced_shapes
from espalier.models.stock import stock_config, stock_model, without_requests


class PlainNorm(nn.Module):  # type: ignore[misc]
    """A norm without a gain, of states of which some channels are gone."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self._width, self._eps = width, eps

    def forward(self, hidden: Tensor) -> Tensor:
        """States [..., d]: x / sqrt(sum(x^2) / width + eps), computed in float32."""
        wide = hidden.float()
        mean = wide.square().sum(dim=-1, keepdim=True) / self._width
        return (wide * torch.rsqrt(mean + self._eps)).to(hidden.dtype)


def slice_layer(layer: nn.Module, form: SlicedForm, number: int) -> nn.Module:
    """Give a stock layer without memory the form's matrices, norms and shortcuts."""
    for name, (outputs, inputs) in sliced_shapes(form, number).items():
        owner, _, leaf = name.rpartition(".")
        bias = name not in (ATTENTION, FFN) and layer.get_submodule(name).bias is not None
        linear = nn.Linear(inputs, outputs, bias=bias, device="meta")
        setattr(layer.get_submodule(owner), leaf, linear)
    for name in NORMS:
        setattr(layer, name, PlainNorm(form.shapes.hidden, form.eps))
    stock: Any = type(layer)
    layer.__class__ = _sliced(stock)
    return layer.eval()


@cache
def _sliced(stock: Any) -> Any:
    """The stock class, which recorders of hidden states look for, with shortcuts."""

    class SlicedLayer(stock):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Tensor, **given: Any) -> Tensor:
            """Hidden states [B, T, before] to [B, T, after]."""
            normed = self.input_layernorm(hidden_states)
            attended = self.self_attn(hidden_states=normed, **given)[0]
            middle = self.attn_shortcut(hidden_states) + attended  # [B, T, middle]
            added = self.mlp(self.post_attention_layernorm(middle))
            left: Tensor = self.mlp_shortcut(middle) + added
            return left

    return SlicedLayer


def load_sliced(directory: Path, dtype: Any = None) -> Any:
    """The causal language model of a sliced checkpoint, in evaluation mode, on the host.

    Args:
        directory: of the form that `espalier.models.sliced_form` describes.
        dtype: a torch dtype; default that in which the matrices are stored.

    Raises:
        InputError: the weights are not those that config.json describes.
        EnvironmentFailure: transformers is so old that its models want more of a layer.
    """
    if int(transformers.__version__.split(".")[0]) < 5:
        raise EnvironmentFailure(
            f"a sliced model needs transformers 5 and this is {transformers.__version__}; use "
            "image eval."
        )
    form = SlicedForm.of(read_config(directory))
    config = without_requests(stock_config(form.stock))
    with torch.device("meta"):
        model = stock_model(config)
        decoder = model.model
        decoder.embed_tokens = nn.Embedding(form.shapes.vocabulary, form.kept)
        for number, layer in enumerate(decoder.layers):
            slice_layer(layer, form, number)
        decoder.norm = PlainNorm(form.shapes.hidden, form.eps)
    return filled(model, directory, dtype or _dtype(directory))


def check_sliced(directory: Path) -> dict[str, Any]:
    """Run a sliced checkpoint a layer at a time on a few tokens, as little being held.

    Returns:
        the loss, for a manifest's checks.

    Raises:
        InputError: it is not finite.
    """
    form, dtype = SlicedForm.of(read_config(directory)), _dtype(directory)
    architecture, reader = Architecture(form.stock), CheckpointReader(directory)
    ids = probe_ids(architecture)[:PROBE_TOKENS]  # [T]
    positions = architecture.positions(len(ids), dtype)
    hidden = architecture.embed(reader, ids[None], dtype)  # [1, T, d]
    with torch.inference_mode(), products(choose_products(dtype, "cpu")):
        for number in range(form.shapes.layers):
            layer = slice_layer(architecture.empty_layer(number), form, number)
            architecture.fill_layer(layer, reader, number, dtype, "cpu")
            hidden = architecture.run_layer(layer, number, hidden, positions)
        normed = PlainNorm(form.shapes.hidden, form.eps)(hidden)
        logits = architecture.logits(reader, normed)[0]  # [T, V]
    loss = float(nn.functional.cross_entropy(logits[:-1].float(), ids[1:]))
    if not bool(torch.isfinite(logits).all()):
        raise InputError(
            f"the sliced model's logits are not finite in {str(dtype).removeprefix('torch.')}; "
            "give the parent in bfloat16 or float32."
        )
    return {"probe_loss": round(loss, 4)}


def _dtype(directory: Path) -> Any:
    return getattr(torch, stored_dtype(locate(directory)) or "float32")
