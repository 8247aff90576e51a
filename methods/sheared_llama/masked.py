"""A stock Llama-like model that computes with masks (arXiv 2310.06694, §2.1).

Of channel masks z, layer masks y, head masks h and neuron masks n, with o and d what attention and
MLP add to the hidden state x:
    x = z * embedding,   x += y z * o(h * context),   x += y z * d(n * up * act(gate))
    norm(x) = z * gain * x / sqrt(mean of x^2 over the channels with z > 0  +  eps)
All of x carries the factor z, so the model keeps r = x / z as its hidden state, without a division:
    norm = (z^2 * gain) * r / sqrt(sum(z^2 r^2) / count(z > 0)  +  eps)
This is the same number, z = 0 included, and costs what the stock norm costs. y goes into h and n.
What is left beside plain training is one product of activations at each down_proj and o_proj.

Gradient checkpointing must not be the re-entrant kind: masks are read from outside the layers, and
that kind runs back through them once for each layer. They must stay until the backward pass ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from methods.sheared_llama.masks import Drawn


class MaskedModel:
    """Makes a stock model masked, from the outside: its parameters keep their names.

    Done before the model is wrapped for several GPUs.
    """

    def __init__(self, model: Any) -> None:
        """`model`: a stock Llama, Mistral, Qwen2 or Qwen3 for causal language modelling."""
        self._drawn: Drawn | None = None
        self._undo: list[Any] = []
        inner = model.model
        self._mask_norm(inner, "norm")
        for number, layer in enumerate(inner.layers):
            self._mask_norm(layer, "input_layernorm")
            self._mask_norm(layer, "post_attention_layernorm")
            width = layer.self_attn.o_proj.in_features
            self._mask_product(layer.self_attn.o_proj, number, "heads", width)
            self._mask_product(layer.mlp.down_proj, number, "neurons", layer.mlp.down_proj.in_features)

    def use(self, drawn: Drawn | None) -> None:
        """Compute with these masks from now on; None: as the stock model does."""
        self._drawn = drawn

    def remove(self) -> None:
        """Make the model the stock one again."""
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def hidden(self) -> Tensor | None:
        """The channels' masks in use, [D]."""
        return None if self._drawn is None else self._drawn.hidden

    def _mask_norm(self, parent: nn.Module, name: str) -> None:
        stock = getattr(parent, name)
        setattr(parent, name, MaskedNorm(stock, self))
        self._undo.append(lambda: setattr(parent, name, stock))

    def _mask_product(self, matrix: nn.Module, layer: int, site: str, width: int) -> None:
        """Mask what a matrix is given by unit and layer; a bias, which the first leaves, by layer."""

        def before(module: nn.Module, args: tuple[Tensor, ...]) -> Any:
            if self._drawn is None:
                return None
            units = getattr(self._drawn, site)[layer]
            if module.bias is None:
                units = units * self._drawn.layers[layer]
            values = units.repeat_interleave(width // len(units))
            return (args[0] * values.to(args[0].dtype), *args[1:])

        def after(module: nn.Module, args: Any, output: Tensor) -> Any:
            if self._drawn is None or module.bias is None:
                return None
            return output * self._drawn.layers[layer].to(output.dtype)

        self._undo.append(matrix.register_forward_pre_hook(before).remove)
        self._undo.append(matrix.register_forward_hook(after).remove)


class MaskedNorm(nn.Module):  # type: ignore[misc]
    """A root mean square norm over the channels that are there.

    Attributes:
        weight: the stock norm's gains, [D].
    """

    def __init__(self, stock: Any, masks: MaskedModel) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = stock.weight, stock.variance_epsilon
        self._masks = masks

    def forward(self, states: Tensor) -> Tensor:
        """Hidden states [B, T, D] without the channels' masks to normalized ones with them."""
        hidden = self._masks.hidden()
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        squares, gains = wide.square(), self.weight
        if hidden is None:
            variance = squares.mean(-1, keepdim=True)
        else:
            weights = hidden.to(wide.dtype).square()
            gains = (gains.to(wide.dtype) * weights).to(gains.dtype)
            kept = hidden.detach().count_nonzero().clamp(min=1)
            with torch.autocast(states.device.type, enabled=False):  # it would round the squares
                variance = (squares @ (weights / kept))[..., None]
        return gains * (wide * (variance + self.variance_epsilon).rsqrt()).to(states.dtype)


@contextmanager
def masking(model: Any, drawn: Drawn) -> Iterator[None]:
    """Within this context, a stock model computes with masks."""
    masked = MaskedModel(model)
    masked.use(drawn)
    try:
        yield
    finally:
        masked.remove()
