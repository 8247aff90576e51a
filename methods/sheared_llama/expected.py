"""The shape that masks are expected to leave, and its cost: what a line of progress says."""

from dataclasses import dataclass

from torch import Tensor

from espalier.models.shapes import Shapes
from methods.sheared_llama.masks import Drawn


@dataclass(frozen=True)
class ExpectedShape:
    """Expected numbers of what is kept; units are drawn independently of one another.

    Attributes:
        layers: layers.
        hidden: channels of the hidden state.
        kv_heads: key-value heads of a layer, on average over all layers.
        ffn: neurons of a layer's MLP, on average over all layers.
        parameters: counted as `Shapes.parameters` counts them.
        macs: multiply-accumulates a token of a forward pass, half of what `forward_flops` counts.
    """

    layers: float
    hidden: float
    kv_heads: float
    ffn: float
    parameters: float
    macs: float


def expected_shape(probabilities: Drawn, parent: Shapes, seqlen: int) -> ExpectedShape:
    """Of the probabilities that units are kept, in sequences of `seqlen` tokens."""
    kept = {site: values.detach().double() for site, values in probabilities.items()}
    hidden, layers = float(kept["hidden"].sum()), kept["layers"]
    heads, neurons = kept["heads"].sum(-1), kept["neurons"].sum(-1)  # [L]
    group = parent.heads // parent.kv_heads
    rows = 2 * (1 + group) * parent.head_dim  # of a group's four matrices
    matrices = hidden * _total(layers * (rows * heads + 3 * neurons))
    attention = group * parent.head_dim * seqlen * _total(layers * heads)
    head = parent.vocabulary * hidden
    return ExpectedShape(
        layers=_total(layers),
        hidden=hidden,
        kv_heads=float(heads.mean()),
        ffn=float(neurons.mean()),
        parameters=matrices + (1 if parent.tied else 2) * head,
        macs=matrices + head + attention,
    )


def _total(values: Tensor) -> float:
    return float(values.sum())
