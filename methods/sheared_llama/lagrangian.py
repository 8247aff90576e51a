"""The penalty that holds each mask to the target shape (arXiv 2310.06694, §2.1, eq. 2).

Of each module m with rows r, of expected sparsity s_mr and target t_m:
    sum_m mean_r [ lambda1_m (s_mr - t_m) + lambda2_m (s_mr - t_m)^2 ]
The rows of heads and of neurons are the layers, so that each layer comes to the same shape.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from methods.sheared_llama.target import SITES, Site, Target


class Lagrangian(nn.Module):  # type: ignore[misc]
    """Multipliers of every site, float32, 0 before the first step.

    They are to ascend where all else descends: their group of the optimizer has a learning rate
    below 0.

    Attributes:
        lambda1: of the linear terms, in the order of `SITES`: [4].
        lambda2: of the squares: [4].
    """

    def __init__(self, target: Target, warmup: int) -> None:
        """The targets rise from 0 in `warmup` steps, linearly; 0: they hold from the start."""
        super().__init__()
        self._final, self._warmup = target.sparsity, warmup
        self.lambda1 = nn.Parameter(torch.zeros(len(SITES)))
        self.lambda2 = nn.Parameter(torch.zeros(len(SITES)))

    def share(self, step: int) -> float:
        """How much of the final sparsity is asked for when `step` steps have been taken."""
        return min(1.0, step / self._warmup) if self._warmup else 1.0

    def targets(self, step: int) -> dict[Site, float]:
        """The sparsity that is asked for when `step` steps have been taken."""
        share = self.share(step)
        return {site: share * sparsity for site, sparsity in self._final.items()}

    def penalty(self, sparsity: Mapping[Site, Tensor], step: int) -> Tensor:
        """What is added to the loss, a number.

        Args:
            sparsity: of each site's rows, of `Drawn.sparsity` of the expected masks.
            step: steps taken before this one.
        """
        targets = self.targets(step)
        gaps = [sparsity[site] - targets[site] for site in SITES]
        linear = torch.stack([gap.mean() for gap in gaps])
        squares = torch.stack([gap.square().mean() for gap in gaps])
        return (self.lambda1 * linear + self.lambda2 * squares).sum()
