"""FLAP (An et al. 2023, "Fluctuation-based Adaptive Structured Pruning", arXiv 2312.11983).

A feature is a column of o_proj or down_proj. It is scored by how much it fluctuates and by the
weights that read it (sec. 4.1); scores are made comparable and units are chosen (sec. 4.2); what is
lost by their absence is on average the mean of the feature, which becomes a bias (sec. 4.3).

Shapes: L layers, C features of a site: Q = heads x head_dim of o_proj, F of down_proj; K key-value
heads. Scores are float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from espalier.errors import InputError
from espalier.models.finite import overflow
from espalier.models.shapes import Shapes
from espalier.models.zeros import row_blocks
from espalier.pruning.structured.target import same_share
from espalier.pruning.structured.units import LayerUnits, all_but_lowest, by_group, column_sizes
from methods.flap.counts import Costs, Counts, manual_by_layer, manual_of_all
from methods.flap.spec import Fluctuation, Metric, Structure
from methods.flap.statistics import SQUARES

WEIGHT_SQUARES, WEIGHT_SIZES = "weight_squares", "weight_sizes"


def column_facts(weight: Tensor) -> dict[str, Tensor]:
    """Of each column of `weight` [R, C] sum_i W_ij^2 and mean_i |W_ij|: float32 [C] on the host."""
    nothing = weight.new_zeros(weight.shape[1], dtype=torch.float64)
    squares = sum((rows.double().square().sum(dim=0) for rows in row_blocks(weight)), nothing)
    facts = {WEIGHT_SQUARES: squares, WEIGHT_SIZES: column_sizes(weight)}
    return {name: values.float().cpu() for name, values in facts.items()}


@dataclass(frozen=True)
class Scores:
    """Scores of features or of units, layer by layer; layers of a padded parent differ in width.

    Attributes:
        attention: of o_proj's features, [Q], or of key-value heads, [K].
        mlp: of neurons, [F].
    """

    attention: list[Tensor]
    mlp: list[Tensor]


def metric_of(
    figures: Mapping[str, Tensor], metric: Metric, fluctuation: Fluctuation = "running"
) -> Tensor:
    """IFV = F_j, WIFV = F_j sum_i W_ij^2 or WIFN = mean_i |W_ij| sqrt(s_j): [L, C].

    Args:
        figures: of one site, float32 [L, C] by name: see `InputStatistics` and `column_facts`.
        metric: which.
        fluctuation: which of the two stands for F.
    """
    wide = {name: values.double() for name, values in figures.items()}
    if metric == "wifn":
        return wide[WEIGHT_SIZES] * wide[SQUARES].sqrt()
    if metric == "ifv":
        return wide[fluctuation]
    return wide[fluctuation] * wide[WEIGHT_SQUARES]


def unit_scores(features: Scores, structure: Structure, shapes: Shapes) -> Scores:
    """Scores of units, comparable as far as the structure compares them.

    o_proj's are squared. `ul` sums up a head; `al` takes z-scores within a layer and averages them
    over a head. A group is the mean of its query heads.

    Raises:
        InputError: one is no number.
    """
    attention, mlp = [values.square() for values in features.attention], features.mlp
    if structure.startswith("ul"):
        heads = [by_group(values, shapes).sum(dim=-1).mean(dim=-1) for values in attention]
    else:
        heads = [by_group(standardized(v), shapes).mean(dim=-1).mean(dim=-1) for v in attention]
        mlp = [standardized(values) for values in mlp]
    if not all(bool(torch.isfinite(values).all()) for values in (*heads, *mlp)):
        raise InputError(overflow("scores", torch.float64))
    return Scores(heads, mlp)


def standardized(values: Tensor) -> Tensor:
    """(x - mean) / std of `values` [C], std with C - 1; zeros where all are equal."""
    centred = values - values.mean()
    deviation = (centred.square().sum() / max(len(values) - 1, 1)).sqrt()
    return centred / deviation if deviation > 0 else torch.zeros_like(values)


@dataclass(frozen=True)
class Choice:
    """What is asked for; see `methods.flap.spec.FlapParameters`."""

    structure: Structure
    sparsity: float
    remove_heads: int | None = None
    reference: bool = False


def select(scores: Scores, shapes: Shapes, choice: Choice) -> list[LayerUnits]:
    """The units that stay, layer by layer, by scores of `unit_scores`, as places among those.

    Raises:
        InputError: so many cannot be removed, or no layer would have a head or a neuron.
    """
    kept = _selected(scores, shapes, choice)
    for name, left in (
        ("head", any(layer.kv_heads for layer in kept)),
        ("neuron", any(layer.neurons for layer in kept)),
    ):
        if not left:
            raise InputError(
                f"SPARSITY={choice.sparsity:g} leaves no {name} in any layer; give less."
            )
    return kept


def _selected(scores: Scores, shapes: Shapes, choice: Choice) -> list[LayerUnits]:
    costs, sparsity = Costs.of(shapes, reference=choice.reference), choice.sparsity
    there = [Counts(len(h), len(n)) for h, n in zip(scores.attention, scores.mlp, strict=True)]
    if choice.structure == "al-am":
        return adaptive(scores, sparsity, costs.head_weight)
    if choice.structure == "ul-um":
        shares = (same_share(layer.kv_heads, layer.neurons, sparsity) for layer in there)
        return _of_each(scores, [Counts(*share) for share in shares])
    assert choice.remove_heads is not None  # noqa: S101
    if choice.structure == "ul-mm":
        return _of_each(scores, manual_by_layer(there, costs, sparsity, choice.remove_heads))
    counts = manual_of_all(there, costs, sparsity, choice.remove_heads)
    heads = _of_all(scores.attention, counts.kv_heads)
    return _by_layer(heads, _of_all(scores.mlp, counts.neurons))


def adaptive(scores: Scores, sparsity: float, head_weight: float) -> list[LayerUnits]:
    """AL-AM: heads and neurons of all layers in one list, the best first, as many as fit.

    A group counts `head_weight` neurons. The list is cut where what it counts comes nearest to
    1 - sparsity of the whole; the unit at the cut goes too (the published code keeps what is
    strictly above its score). Of equals heads come before neurons, and lower layers first.
    """
    heads, neurons = torch.cat(scores.attention), torch.cat(scores.mlp)
    listed = torch.cat([heads, neurons])
    weight = torch.ones_like(listed)
    weight[: len(heads)] = head_weight
    order = listed.sort(descending=True, stable=True).indices
    distance = (weight[order].cumsum(dim=0) - weight.sum() * (1 - sparsity)).abs()
    count = int((distance == distance.min()).nonzero()[0])  # the first: argmin gives any of equals
    kept = torch.zeros(len(listed), dtype=torch.bool)
    kept[order[:count]] = True
    of_heads, of_neurons = kept.split([len(heads), len(neurons)])
    widths = [[len(layer) for layer in site] for site in (scores.attention, scores.mlp)]
    return _by_layer(of_heads.split(widths[0]), of_neurons.split(widths[1]))


def _of_each(scores: Scores, counts: Sequence[Counts]) -> list[LayerUnits]:
    """Of every layer all but so many of its lowest."""
    return [
        LayerUnits(all_but_lowest(heads, gone.kv_heads), all_but_lowest(mlp, gone.neurons))
        for heads, mlp, gone in zip(scores.attention, scores.mlp, counts, strict=True)
    ]


def _of_all(layers: list[Tensor], count: int) -> tuple[Tensor, ...]:
    """All but the lowest of all layers together, as masks bool, layer by layer."""
    listed = torch.cat(layers)
    kept = torch.zeros(len(listed), dtype=torch.bool)
    kept[list(all_but_lowest(listed, count))] = True
    return tuple(kept.split([len(layer) for layer in layers]))


def _by_layer(heads: Sequence[Tensor], neurons: Sequence[Tensor]) -> list[LayerUnits]:
    """From masks bool, layer by layer."""

    def indices(mask: Tensor) -> tuple[int, ...]:
        return tuple(mask.nonzero()[:, 0].tolist())

    return [LayerUnits(indices(h), indices(n)) for h, n in zip(heads, neurons, strict=True)]


def compensation(weight: Tensor, mean: Tensor, kept: Tensor) -> Tensor:
    """What the removed features gave on average, (m * not kept) W^T (eq. 6): float32 [R].

    Args:
        weight: [R, C], uncut.
        mean: of the features, float32 [C].
        kept: features that stay, int64.
    """
    lost = mean.clone()
    lost[kept] = 0
    return torch.cat([rows.float() @ lost for rows in row_blocks(weight)])
