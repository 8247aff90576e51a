"""FLAP (An et al. 2023, "Fluctuation-based Adaptive Structured Pruning", arXiv 2312.11983).

A feature is a column of o_proj or down_proj. It is scored by how much it fluctuates and by the
weights that read it (sec. 4.1); scores are made comparable and units are chosen (sec. 4.2); what is
lost by their absence is on average the mean of the feature, which becomes a bias (sec. 4.3).

Shapes: L layers, C features of a site: Q = heads x head_dim of o_proj, F of down_proj; K key-value
heads. Everything is float64, unless said otherwise.
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
from espalier.pruning.structured.units import (
    LayerUnits,
    all_but_lowest,
    by_group,
    column_sizes,
)
from methods.flap.counts import Costs, Counts, manual_counts
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
    """Scores of all layers' features.

    Attributes:
        attention: [L, Q].
        mlp: [L, F].
    """

    attention: Tensor
    mlp: Tensor


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
    """Scores of units, comparable as far as the structure compares them: [L, K] and [L, F].

    o_proj's are squared. `ul` sums up a head; `al` takes z-scores within a layer and averages them
    over a head. A group is the mean of its query heads.
    """
    attention, mlp = features.attention.square(), features.mlp
    if structure.startswith("ul"):
        heads = by_group(attention, shapes).sum(dim=-1).mean(dim=-1)
    else:
        heads = by_group(standardized(attention), shapes).mean(dim=-1).mean(dim=-1)
        mlp = standardized(mlp)
    if not bool(torch.isfinite(heads).all() and torch.isfinite(mlp).all()):
        raise InputError(overflow("scores", torch.float64))
    return Scores(heads, mlp)


def standardized(values: Tensor) -> Tensor:
    """(x - mean) / std over the last dimension, std with N - 1; zeros where all are equal."""
    centred = values - values.mean(dim=-1, keepdim=True)
    deviation = centred.square().sum(dim=-1, keepdim=True) / max(values.shape[-1] - 1, 1)
    return torch.where(deviation > 0, centred / deviation.sqrt(), 0.0)


@dataclass(frozen=True)
class Choice:
    """What is asked for; see `methods.flap.spec.FlapParameters`."""

    structure: Structure
    sparsity: float
    remove_heads: int | None = None
    reference: bool = False


def select(scores: Scores, shapes: Shapes, choice: Choice) -> list[LayerUnits]:
    """The units that stay, layer by layer, by scores of `unit_scores`.

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
    structure, sparsity, reference = choice.structure, choice.sparsity, choice.reference
    if structure == "al-am":
        head_weight = Costs.of(shapes, reference=reference).head_weight
        return adaptive(scores, sparsity, head_weight)
    if structure == "ul-um":
        return _of_each(scores, Counts(*same_share(shapes, sparsity)))
    assert choice.remove_heads is not None  # noqa: S101
    by_layer = structure == "ul-mm"
    counts = manual_counts(
        shapes, sparsity, choice.remove_heads, by_layer=by_layer, reference=reference
    )
    return _of_each(scores, counts) if by_layer else _of_all(scores, counts)


def adaptive(scores: Scores, sparsity: float, head_weight: float) -> list[LayerUnits]:
    """AL-AM: heads and neurons of all layers in one list, the best first, as many as fit.

    A group counts `head_weight` neurons. The list is cut where what it counts comes nearest to
    1 - sparsity of the whole; the unit at the cut goes too (the published code keeps what is
    strictly above its score). Of equals heads come before neurons, and lower layers first.
    """
    (layers, groups), neurons = scores.attention.shape, scores.mlp.shape[1]
    listed = torch.cat([scores.attention.flatten(), scores.mlp.flatten()])
    weight = torch.ones_like(listed)
    weight[: layers * groups] = head_weight
    order = listed.sort(descending=True, stable=True).indices
    summed = weight[order].cumsum(dim=0)
    target = weight.sum() * (1 - sparsity)
    # argmin would give any of equals.
    distance = (summed - target).abs()
    count = int((distance == distance.min()).nonzero()[0])
    kept = torch.zeros(len(listed), dtype=torch.bool)
    kept[order[:count]] = True
    heads = kept[: layers * groups].view(layers, groups)
    return _by_layer(heads, kept[layers * groups :].view(layers, neurons))


def _of_each(scores: Scores, counts: Counts) -> list[LayerUnits]:
    """Of every layer all but its lowest."""
    return [
        LayerUnits(all_but_lowest(heads, counts.kv_heads), all_but_lowest(mlp, counts.neurons))
        for heads, mlp in zip(scores.attention, scores.mlp, strict=True)
    ]


def _of_all(scores: Scores, counts: Counts) -> list[LayerUnits]:
    """Of all layers together all but the lowest."""
    masks = []
    for values, count in ((scores.attention, counts.kv_heads), (scores.mlp, counts.neurons)):
        kept = torch.zeros(values.numel(), dtype=torch.bool)
        kept[list(all_but_lowest(values.flatten(), count))] = True
        masks.append(kept.view(values.shape))
    return _by_layer(*masks)


def _by_layer(heads: Tensor, neurons: Tensor) -> list[LayerUnits]:
    """From masks bool [L, K] and [L, F]."""

    def indices(mask: Tensor) -> tuple[int, ...]:
        return tuple(mask.nonzero()[:, 0].tolist())

    return [LayerUnits(indices(h), indices(n)) for h, n in zip(heads, neurons, strict=True)]


def compensation(weight: Tensor, mean: Tensor, kept: Sequence[int]) -> Tensor:
    """What the removed features gave on average, (m * not kept) W^T (eq. 6): float32 [R].

    Args:
        weight: [R, C], uncut.
        mean: of the features, float32 [C].
        kept: features that stay.
    """
    lost = mean.clone()
    lost[list(kept)] = 0
    return torch.cat([rows.float() @ lost for rows in row_blocks(weight)])
