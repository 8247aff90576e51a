"""A stock Llama-like model that computes with masks (arXiv 2310.06694, §2.1).

Of channel masks z, layer masks y, head masks h and neuron masks n, with o and d what attention and
MLP add to the hidden state x:
    x = z * embedding,   x += y z * o(h * context),   x += y z * d(n * up * act(gate))
    norm(x) = z * gain * x / sqrt(mean of x^2 over the channels with z > 0  +  eps)
All of x carries the factor z, so the model keeps r = x / z as its hidden state, without a division:
    norm = (z^2 * gain) * r / sqrt(sum(z^2 r^2) / count(z > 0)  +  eps)
This is the same number, z = 0 included, and costs what the stock norm costs. y goes into h and n.
What is left beside plain training is one product of activations at each o_proj and down_proj.

Gradient checkpointing must not be the re-entrant kind: masks are read from outside the layers, and
that kind runs back through them once for each layer. They must stay until the backward pass ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from methods.sheared_llama.masked_parts import MaskedLinear, MaskedNorm
from methods.sheared_llama.masks import Drawn


class MaskedModel:
    """Makes a stock model masked, in place: its parameters stay the same, under the same names.

    Done before the model is wrapped for several GPUs.
    """

    def __init__(self, model: Any) -> None:
        """`model`: a stock Llama, Mistral, Qwen2 or Qwen3 for causal language modelling."""
        self._stock: list[tuple[nn.Module, str, nn.Module]] = []
        self._norms = [self._norm(model.model, "norm")]
        self._heads: list[MaskedLinear] = []
        self._neurons: list[MaskedLinear] = []
        for layer in model.model.layers:
            self._norms.append(self._norm(layer, "input_layernorm"))
            self._norms.append(self._norm(layer, "post_attention_layernorm"))
            self._heads.append(self._linear(layer.self_attn, "o_proj"))
            self._neurons.append(self._linear(layer.mlp, "down_proj"))

    def use(self, drawn: Drawn | None) -> None:
        """Compute with these masks from now on; None: as the stock model does."""
        for norm in self._norms:
            norm.masks = None if drawn is None else drawn.hidden
        for number, (heads, neurons) in enumerate(zip(self._heads, self._neurons, strict=True)):
            heads.masks = None if drawn is None else drawn.heads[number]
            neurons.masks = None if drawn is None else drawn.neurons[number]
            heads.whole = neurons.whole = None if drawn is None else drawn.layers[number]

    def remove(self) -> None:
        """Make the model the stock one again."""
        for parent, name, stock in self._stock:
            setattr(parent, name, stock)

    def _norm(self, parent: nn.Module, name: str) -> MaskedNorm:
        part = MaskedNorm(getattr(parent, name))
        self._replace(parent, name, part)
        return part

    def _linear(self, parent: nn.Module, name: str) -> MaskedLinear:
        part = MaskedLinear(getattr(parent, name))
        self._replace(parent, name, part)
        return part

    def _replace(self, parent: nn.Module, name: str, part: nn.Module) -> None:
        self._stock.append((parent, name, getattr(parent, name)))
        setattr(parent, name, part)


@contextmanager
def masking(model: Any, drawn: Drawn) -> Iterator[None]:
    """Within this context, a stock model computes with masks."""
    masked = MaskedModel(model)
    masked.use(drawn)
    try:
        yield
    finally:
        masked.remove()
