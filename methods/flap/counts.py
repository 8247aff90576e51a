"""How many units FLAP's structures take, and what a head counts beside a neuron. Needs no torch.

Shapes: L layers, K key-value heads and F neurons of each, G query heads of a key-value head.
"""

from dataclasses import dataclass

from espalier.errors import InputError
from espalier.models.shapes import Shapes

REFERENCE_HEAD = 170
"""512/3 in the published code, whose tensor holds whole numbers: 4 x 128 x D / (3 x D)."""


@dataclass(frozen=True)
class Costs:
    """Weights of a layer and of its units, and what a group of heads counts in neurons.

    Attributes:
        layer: all of a layer.
        group: a key-value head and the query heads that read it.
        neuron: its row of gate_proj and of up_proj, and its column of down_proj.
        head_weight: of a group, where heads and neurons are taken from one list.
    """

    layer: int
    group: int
    neuron: int
    head_weight: float

    @classmethod
    def of(cls, shapes: Shapes, *, reference: bool) -> "Costs":
        """Those of a model; the reference's are of multi-head attention with heads of 128.

        It takes q, k, v and o for square and a head for a fourth of each's rows, whatever the
        key-value heads are.
        """
        hidden, neurons = shapes.hidden, shapes.intermediate
        if reference:
            square = 4 * hidden**2
            head = 4 * hidden * shapes.head_dim
            return cls(3 * neurons * hidden + square, head, 3 * hidden, REFERENCE_HEAD)
        queries = shapes.heads // shapes.kv_heads
        group = (2 * queries + 2) * shapes.head_dim * hidden
        neuron = 3 * hidden
        return cls(shapes.layer_parameters, group, neuron, group / neuron)


@dataclass(frozen=True)
class Counts:
    """Units to take: of every layer (`ul`), or of all layers together (`al`)."""

    kv_heads: int
    neurons: int


def manual_counts(
    shapes: Shapes, sparsity: float, remove_heads: int, *, by_layer: bool, reference: bool
) -> Counts:
    """UL-MM and AL-MM: so many heads as are given, and as many neurons as then make the sparsity.

    Args:
        shapes: the parent's.
        sparsity: of the weights of all layers.
        remove_heads: groups to remove in all layers together.
        by_layer: UL-MM, which takes remove_heads // L of each layer; the counts are a layer's.
        reference: with its `Costs`, and -1 for all but one.

    Raises:
        InputError: so many cannot be removed, or the neurons would be fewer than none or all.
    """
    costs = Costs.of(shapes, reference=reference)
    layers = 1 if by_layer else shapes.layers
    most, asked = layers * shapes.kv_heads, remove_heads
    if by_layer:
        asked //= shapes.layers
    _check_heads(shapes, remove_heads, reference=reference)
    neurons = int((layers * sparsity * costs.layer - asked * costs.group) / costs.neuron)
    if neurons < 0:
        fewer = int(sparsity * shapes.layers * costs.layer / costs.group)
        raise InputError(
            f"REMOVE_HEADS={remove_heads} removes more than SPARSITY={sparsity:g} of the weights; "
            f"give REMOVE_HEADS={fewer} or fewer, or a larger SPARSITY."
        )
    if neurons >= layers * shapes.intermediate:
        raise InputError(
            f"SPARSITY={sparsity:g} with REMOVE_HEADS={remove_heads} leaves no neuron; give more "
            "heads to remove, or a smaller SPARSITY."
        )
    if not (asked or neurons):
        raise InputError(
            f"nothing would be removed by SPARSITY={sparsity:g} with REMOVE_HEADS={remove_heads}; "
            "give more."
        )
    return Counts(most + asked if asked < 0 else asked, neurons)


def _check_heads(shapes: Shapes, remove_heads: int, *, reference: bool) -> None:
    most = shapes.layers * shapes.kv_heads - 1
    if remove_heads == -1 and reference:
        return
    if not 0 <= remove_heads <= most:
        raise InputError(
            f"REMOVE_HEADS={remove_heads} cannot be removed of {shapes.layers} layers with "
            f"{shapes.kv_heads} key-value heads each; give 0 to {most}."
        )
