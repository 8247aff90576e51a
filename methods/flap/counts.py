"""How many units FLAP's structures take, and what a head counts beside a neuron. Needs no torch.

Shapes: L layers; K key-value heads and F neurons of a layer. Layers of a padded parent differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from espalier.errors import InputError
from espalier.models.shapes import Shapes

REFERENCE_HEAD = 170
"""512/3 in the published code, whose tensor holds whole numbers: 4 x 128 x D / (3 x D)."""


@dataclass(frozen=True)
class Counts:
    """So many heads, by their key-value head, and neurons: that there are, or that go."""

    kv_heads: int
    neurons: int


@dataclass(frozen=True)
class Costs:
    """Weights of units, and what a group of heads counts in neurons.

    Attributes:
        group: a key-value head and the query heads that read it.
        neuron: its row of gate_proj and of up_proj, and its column of down_proj.
        head_weight: of a group, where heads and neurons are taken from one list.
        attention: of all a layer's heads; None: its groups' weights.
    """

    group: int
    neuron: int
    head_weight: float
    attention: int | None = None

    @classmethod
    def of(cls, shapes: Shapes, *, reference: bool) -> "Costs":
        """Those of a model; the reference's are of multi-head attention with heads of 128.

        It takes q, k, v and o for square and a head for a fourth of each's rows, whatever the
        key-value heads are.
        """
        hidden, neuron = shapes.hidden, 3 * shapes.hidden
        if reference:
            return cls(4 * hidden * shapes.head_dim, neuron, REFERENCE_HEAD, 4 * hidden**2)
        queries = shapes.heads // shapes.kv_heads
        group = (2 * queries + 2) * shapes.head_dim * hidden
        return cls(group, neuron, group / neuron)

    def layer(self, there: Counts) -> int:
        """Weights of a layer of these widths."""
        attention = there.kv_heads * self.group if self.attention is None else self.attention
        return attention + there.neurons * self.neuron


def same_widths(shapes: Shapes) -> list[Counts]:
    """The widths of a model whose layers are all as config.json says."""
    return [Counts(shapes.kv_heads, shapes.intermediate)] * shapes.layers


def manual_by_layer(
    there: Sequence[Counts], costs: Costs, sparsity: float, remove_heads: int
) -> list[Counts]:
    """UL-MM: remove_heads // L of each layer's heads, and neurons that then make the sparsity.

    Args:
        there: the widths of each layer.
        costs: the model's.
        sparsity: of the weights.
        remove_heads: in all layers together; -1: all but one of each.

    Raises:
        InputError: so many cannot be removed, or the neurons would be fewer than none or all.
    """
    heads = remove_heads // len(there)
    found = []
    for layer in there:
        neurons = _neurons([layer], costs, sparsity, heads)
        _check(Counts(heads, neurons), layer, sparsity, remove_heads)
        found.append(Counts(heads + layer.kv_heads if heads < 0 else heads, neurons))
    return _something(found, sparsity, remove_heads)


def manual_of_all(
    there: Sequence[Counts], costs: Costs, sparsity: float, remove_heads: int
) -> Counts:
    """AL-MM: as `manual_by_layer`, of all layers together; -1 leaves one head in the whole model.

    Raises:
        InputError: as there.
    """
    whole = Counts(sum(each.kv_heads for each in there), sum(each.neurons for each in there))
    neurons = _neurons(there, costs, sparsity, remove_heads)
    _check(Counts(remove_heads, neurons), whole, sparsity, remove_heads)
    heads = remove_heads + whole.kv_heads if remove_heads < 0 else remove_heads
    return _something([Counts(heads, neurons)], sparsity, remove_heads)[0]


def _neurons(there: Sequence[Counts], costs: Costs, sparsity: float, heads: int) -> int:
    """What is left to remove, in neurons, once `heads` are removed of these layers."""
    mean = sum(map(costs.layer, there)) / len(there)
    return int((len(there) * sparsity * mean - costs.group * heads) / costs.neuron)


def _check(gone: Counts, there: Counts, sparsity: float, remove_heads: int) -> None:
    given = f"REMOVE_HEADS={remove_heads}"
    if gone.kv_heads >= there.kv_heads:
        raise InputError(
            f"{given} leaves no head, where there are {there.kv_heads} key-value heads to take "
            f"{gone.kv_heads} from; give fewer."
        )
    if gone.neurons < 0:
        raise InputError(
            f"{given} removes more than SPARSITY={sparsity:g} of the weights; give fewer, or a "
            "larger SPARSITY."
        )
    if gone.neurons >= there.neurons:
        raise InputError(
            f"SPARSITY={sparsity:g} with {given} leaves no neuron; give more heads to remove, or a "
            "smaller SPARSITY."
        )


def _something(found: list[Counts], sparsity: float, remove_heads: int) -> list[Counts]:
    if any(each.kv_heads or each.neurons for each in found):
        return found
    raise InputError(
        f"nothing would be removed by SPARSITY={sparsity:g} with REMOVE_HEADS={remove_heads}; give "
        "more of either."
    )
