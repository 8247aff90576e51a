"""The clipping of gradients, also of those that are sharded over ranks, as a Composer algorithm."""

import torch
from composer import Algorithm, Event, Logger, State
from composer.utils import dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

SMALL = 1e-6
"""Beside the norm, as torch has it."""


class Clipping(Algorithm):  # type: ignore[misc]
    """Holds the norm of all gradients together to `largest`.

    Composer's own clips sharded gradients alone, or whole ones alone. What each rank holds whole,
    which are masks and multipliers, has the gradient of the rank's own rows: it is first averaged
    over the ranks, as FSDP has averaged the others.
    """

    def __init__(self, largest: float) -> None:
        self._largest = largest

    def match(self, event: Event, state: State) -> bool:
        """Behind the backward passes of a batch."""
        return bool(event == Event.AFTER_TRAIN_BATCH)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Average and clip, in place."""
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
        whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
        if dist.get_world_size() > 1:
            for gradient in whole:
                dist.all_reduce(gradient)
                gradient.div_(dist.get_world_size())
        norms = [_norm(part) for part in (sharded, whole) if part]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        factor = (self._largest / (norm + SMALL)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)


def _norm(gradients: list[Tensor]) -> Tensor:
    """Of all of them together, on all ranks, a number."""
    norm = get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
