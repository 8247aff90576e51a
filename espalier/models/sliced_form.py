"""The form `espalier-sliced`: a decoder whose residual stream has another basis at every block.

What SliceGPT (Ashkboos et al. 2024, arXiv 2401.15024) leaves of a model, which no stock
architecture has. Of the parent's D channels d are left everywhere but after the last layer:

- embeddings [V, d] and a head of its own [V, D];
- a layer's matrices as a stock layer has them, with d inputs and outputs, the last layer's
  `mlp.down_proj` with D outputs;
- `attn_shortcut` [d, d] and `mlp_shortcut` [d, d], the last one [D, d]: what turns the stream into
  the next block's basis on its way past attention and FFN;
- no norm's gain: a norm is x / sqrt(sum(x^2) / D + eps), with the parent's D.

Needs no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from espalier.errors import InputError
from espalier.models.shapes import Shapes, count_in

SLICED = "espalier-sliced"
"""`model_type` of the form, which no stock loader has."""
ATTENTION, FFN = "attn_shortcut", "mlp_shortcut"
"""What stands past attention and past the FFN, by its name in a layer."""
STOCK_TYPE, KEPT, EPS = "stock_model_type", "sliced_size", "rms_norm_eps"
READS_STREAM = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
READS_MIDDLE = ("mlp.gate_proj", "mlp.up_proj")
WRITES_MIDDLE, WRITES_STREAM = "self_attn.o_proj", "mlp.down_proj"
NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True)
class LayerWidths:
    """Channels of the residual stream before a layer, within it and after it."""

    before: int
    middle: int
    after: int


@dataclass(frozen=True)
class SlicedForm:
    """What a config.json of the form says.

    Attributes:
        stock: config.json's content of a stock model of the parent's shape with a head of its own.
        shapes: the parent's.
        kept: channels that are left.
        eps: of every norm.
    """

    stock: dict[str, Any]
    shapes: Shapes
    kept: int
    eps: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "SlicedForm":
        """Read a config.json's content.

        Raises:
            InputError: it is not of this form, or not of a family that is known.
        """
        if not is_sliced(config):
            raise InputError(f"config.json is not of the form {SLICED}; give one that is.")
        stock = {key: value for key, value in config.items() if key not in (STOCK_TYPE, KEPT)}
        stock["model_type"] = config.get(STOCK_TYPE)
        shapes, kept = Shapes.of(stock), count_in(config, KEPT)
        if kept > shapes.hidden:
            raise InputError(
                f"config.json keeps {kept} of {shapes.hidden} channels; make it again."
            )
        return cls(stock, shapes, kept, float(config[EPS]))

    def widths(self, layer: int) -> LayerWidths:
        """Of one layer; the head reads the parent's width."""
        last = layer + 1 == self.shapes.layers
        return LayerWidths(self.kept, self.kept, self.shapes.hidden if last else self.kept)


def sliced_config(parent: Mapping[str, Any], kept: int, eps: float) -> dict[str, Any]:
    """config.json of the form, from the parent's."""
    return {
        **parent,
        "model_type": SLICED,
        "architectures": [SLICED],
        STOCK_TYPE: parent["model_type"],
        KEPT: kept,
        EPS: eps,
        "tie_word_embeddings": False,
    }


def is_sliced(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of the form."""
    return config.get("model_type") == SLICED


def sliced_shapes(form: SlicedForm, layer: int) -> dict[str, tuple[int, ...]]:
    """[outputs, inputs] of a layer's matrices, by name within the layer."""
    widths, parent = form.widths(layer), form.shapes.matrices
    shapes: dict[str, tuple[int, ...]] = {}
    for name in READS_STREAM:
        shapes[name] = (parent[name][0], widths.before)
    for name in READS_MIDDLE:
        shapes[name] = (parent[name][0], widths.middle)
    shapes[WRITES_MIDDLE] = (widths.middle, parent[WRITES_MIDDLE][1])
    shapes[WRITES_STREAM] = (widths.after, parent[WRITES_STREAM][1])
    shapes[ATTENTION] = (widths.middle, widths.before)
    shapes[FFN] = (widths.after, widths.middle)
    return shapes
