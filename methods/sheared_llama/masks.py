"""The masks of a model as parameters: on channels, groups of heads, neurons and layers.

Shapes: D channels of the hidden state, L layers, KV key-value heads, F neurons of an MLP.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from espalier.models.shapes import Shapes
from methods.sheared_llama.hard_concrete import (
    BOUND,
    deterministic,
    expected_kept,
    keep_probability,
    sample,
    uniform,
)
from methods.sheared_llama.target import SITES, Site, Target, rows_of, units_of

INITIAL, SPREAD = 5.0, 0.01
"""Mean and standard deviation of log-alpha before the first step, when nearly all is kept."""


@dataclass(frozen=True)
class Drawn:
    """One value for each unit: of a mask, or the probability that it is kept.

    Attributes:
        hidden: [D], shared by all layers.
        heads: [L, KV]; a key-value head's holds for the query heads that read it.
        neurons: [L, F].
        layers: [L], of a layer's attention and of its MLP.
    """

    hidden: Tensor
    heads: Tensor
    neurons: Tensor
    layers: Tensor

    def items(self) -> Iterator[tuple[Site, Tensor]]:
        """Each site's values."""
        for site in SITES:
            yield site, getattr(self, site)

    def sparsity(self) -> dict[Site, Tensor]:
        """1 - mean over the units of each row: [1] of channels and layers, [L] of the others."""
        return {site: 1 - values.mean(-1).reshape(-1) for site, values in self.items()}


class Masks(nn.Module):  # type: ignore[misc]
    """log-alpha of every unit, float32, in the shapes of `Drawn`."""

    def __init__(self, parent: Shapes, generator: torch.Generator) -> None:
        """As before the first step: N(INITIAL, SPREAD), cut off at BOUND when first drawn."""
        super().__init__()
        rows, units = rows_of(parent), units_of(parent)
        for site in SITES:
            shape = (*rows[site], units[site])
            noise = torch.randn(shape, generator=generator, device=generator.device)
            self.register_parameter(site, nn.Parameter(INITIAL + SPREAD * noise))

    def drawn(self, generator: torch.Generator | None) -> Drawn:
        """Masks for one step of training, differentiable.

        log-alpha is first cut off in place, so that what was pushed past the bound has a gradient.

        Args:
            generator: of the noise, wherever the parameters lie; None: no noise, each row keeps as
                many units as it is expected to.
        """
        self.bound()
        if generator is None:
            return self._each(lambda values: deterministic(values, expected_kept(values)))
        return self._each(
            lambda values: sample(values, uniform(tuple(values.shape), generator).to(values.device))
        )

    def expected(self) -> Drawn:
        """The probability that each unit is kept, differentiable."""
        return self._each(keep_probability)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def final(self, target: Target | None = None) -> Drawn:
        """Masks to evaluate or extract with: exactly the target's units of each row are not 0.

        Args:
            target: None: each row keeps as many units as it is expected to.
        """
        self.bound()
        if target is None:
            return self.drawn(None)
        kept = target.kept
        return Drawn(**{site: deterministic(getattr(self, site), kept[site]) for site in SITES})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def bound(self) -> None:
        """Cut log-alpha off at plus and minus BOUND, in place."""
        for values in self.parameters():
            values.clamp_(-BOUND, BOUND)

    def _each(self, of: Callable[[Tensor], Tensor]) -> Drawn:
        return Drawn(**{site: of(getattr(self, site)) for site in SITES})
