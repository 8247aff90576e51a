"""Width importance from activations (Muralidharan et al. 2024, arXiv 2407.14679, §2.2).

    F_neuron(i) = agg_B agg_S X W1_i        the FFN's inner activations
    F_emb(i)    = agg_B agg_S LN(X)_i       both norms of every layer
    F_head(i)   = agg_B agg_S ||Attn_i||_2  a head's output before the output projection

A sample's tokens are aggregated first, then the samples; the size of a batch changes nothing.
Shapes: B samples, T tokens, C channels, neurons or heads.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from espalier.pruning.layers.taps import Tap, inputs_of, outputs_of, require_fed
from methods.minitron.spec import Aggregation

HIDDEN, INTERMEDIATE, HEADS = "hidden", "intermediate", "heads"


def over_tokens(activations: Tensor, how: Aggregation) -> Tensor:
    """Activations float32 [B, T, C] to one number a sample, [B, C] (§2.2, "aggregation")."""
    if how == "mean":
        return activations.abs().mean(dim=1)
    if how == "l2":
        return activations.square().sum(dim=1).sqrt()
    return activations.var(dim=1, correction=0)


class OverSamples:
    """Aggregates samples one by one.

    `l2` stays a sum of squares, so that channels may be summed over layers before the root is
    taken: importance keeps its order, and the reference's.

    Attributes:
        value: float64 [C].
    """

    def __init__(self, how: Aggregation, size: int) -> None:
        self._how = how
        self._count = 0
        self._sum = torch.zeros(size, dtype=torch.float64)
        self._squares = torch.zeros(size, dtype=torch.float64)

    def add(self, samples: Tensor) -> None:
        """Take in [B, C]."""
        wide = samples.cpu().double()
        self._count += len(wide)
        self._sum += wide.sum(dim=0)
        self._squares += wide.square().sum(dim=0)

    @property
    def value(self) -> Tensor:
        """Of all samples.

        Raises:
            InputError: there were none.
        """
        require_fed(self._count, "what is scored")
        if self._how == "mean":
            return self._sum / self._count
        if self._how == "l2":
            return self._squares
        mean = self._sum / self._count
        return (self._squares / self._count - mean.square()).clamp(min=0)


class WidthImportance:
    """Watches the two norms, the attention's heads and the FFN's neurons of each layer."""

    def __init__(
        self, sizes: Mapping[str, int], head_dim: int, batch: Aggregation, sequence: Aggregation
    ) -> None:
        """`sizes`: of `hidden`, `intermediate` and `heads`."""
        self._sizes, self._head_dim = sizes, head_dim
        self._batch, self._sequence = batch, sequence
        self._found: dict[str, OverSamples] = {}

    def begin(self, module: nn.Module) -> list[Tap]:
        """Look at the two norms, the heads and the neurons."""
        self._found = {site: OverSamples(self._batch, n) for site, n in self._sizes.items()}
        norms = ("input_layernorm", "post_attention_layernorm")
        return [
            *(outputs_of(name, self._channels) for name in norms),
            inputs_of("self_attn.o_proj", self._heads),
            inputs_of("mlp.down_proj", self._neurons),
        ]

    def end(self) -> dict[str, Any]:
        """The layer's importances; channels are those of its two norms together."""
        return {site: found.value.tolist() for site, found in self._found.items()}

    def _channels(self, outputs: Tensor) -> None:
        self._take(HIDDEN, outputs.float())

    def _neurons(self, inputs: Tensor) -> None:
        self._take(INTERMEDIATE, inputs.float())

    def _heads(self, inputs: Tensor) -> None:
        heads = inputs.float().unflatten(-1, (-1, self._head_dim))  # [B, T, heads, head_dim]
        self._take(HEADS, heads.norm(dim=-1))

    def _take(self, site: str, activations: Tensor) -> None:
        self._found[site].add(over_tokens(activations, self._sequence))


def root(values: Tensor, batch: Aggregation) -> Tensor:
    """The importance proper: `l2` takes its root last."""
    return values.sqrt() if batch == "l2" else values


def most_important(importance: Tensor, count: int) -> list[int]:
    """The `count` indices of the largest values [C], the largest first; of equals the first."""
    order: list[int] = importance.sort(descending=True, stable=True).indices.tolist()
    return order[:count]


def most_important_heads(
    importance: Tensor, heads: int, kv_heads: int, parent_kv_heads: int
) -> tuple[list[int], list[int]]:
    """Query heads [heads] and key-value heads [kv_heads] to keep, in order of importance.

    A group is as important as the query heads that it would keep; in each kept group the most
    important query heads stay, so that stock attention pairs them as before.

    Args:
        importance: of the parent's query heads, [parent heads].
        heads: query heads to keep, a multiple of `kv_heads`.
        kv_heads: groups to keep.
        parent_kv_heads: groups of the parent.
    """
    grouped = importance.view(parent_kv_heads, -1)  # [groups, queries a group]
    queries = heads // kv_heads
    order = grouped.sort(dim=1, descending=True, stable=True)
    groups = most_important(order.values[:, :queries].sum(dim=1), kv_heads)
    kept = [
        group * grouped.shape[1] + int(query)
        for group in groups
        for query in order.indices[group, :queries]
    ]
    return kept, groups
