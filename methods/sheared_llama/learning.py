"""The learning of masks, as a Composer algorithm (arXiv 2310.06694, §2.1).

Each forward pass of a batch draws the same masks, whatever a microbatch is, and the next batch
others; the noise follows from the seed and the batch alone, so that a resumed run draws the same.
"""

from collections.abc import Iterable
from typing import Any

import torch
from composer import Algorithm, Event, Logger, State
from composer.optim import DecoupledAdamW

from methods.sheared_llama.batch_loss import BatchLoss
from methods.sheared_llama.model import ShearedModel
from methods.sheared_llama.target import Target

BETAS, EPSILON = (0.9, 0.95), 1e-8
NOISE = 1 << 32
"""Seeds of the noise: of each seed so many batches."""


class MaskLearning(Algorithm):  # type: ignore[misc]
    """Draws masks, adds the penalty to the loss, and evaluates with the masks of the target.

    Args:
        target: what the masks come to.
        seed: of the noise.
        sampled: whether there is noise; else a step takes the masks that are most likely.
    """

    def __init__(self, target: Target, seed: int, *, sampled: bool) -> None:
        self._target, self._seed, self._sampled = target, seed, sampled
        self._loss = BatchLoss()

    @property
    def cross_entropy(self) -> float:
        """Of the batch before, nats a token, without the penalty."""
        return self._loss.cross_entropy

    def match(self, event: Event, state: State) -> bool:
        """Where a batch or an evaluation begins, before each forward pass and after each loss."""
        return event in (
            *(Event.BATCH_START, Event.BEFORE_FORWARD, Event.AFTER_LOSS, Event.EVAL_START),
        )

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Do what the event is for."""
        model = state.model
        assert isinstance(model, ShearedModel)  # noqa: S101
        step = int(state.timestamp.batch)
        if event == Event.BATCH_START:
            self._loss.batch_start(state, logger)
        elif event == Event.BEFORE_FORWARD:
            generator = None
            if self._sampled:
                generator = torch.Generator().manual_seed(self._seed * NOISE + step)
            model.masked.use(model.masks.drawn(generator))
        elif event == Event.AFTER_LOSS:
            self._loss.after_loss(state, logger)
            sparsity = model.masks.expected().sparsity()
            state.loss = state.loss + model.lagrangian.penalty(sparsity, step)
        else:
            model.masked.use(model.masks.final(self._target))


def optimizer(
    model: ShearedModel, *, weights: float, masks: float, multipliers: float
) -> DecoupledAdamW:
    """AdamW over three groups, each with its learning rate; multipliers ascend.

    Args:
        model: whose parameters they are.
        weights: rate of the model's weights.
        masks: rate of log-alpha.
        multipliers: rate of the Lagrangian's.
    """
    groups: list[dict[str, Any]] = [
        {"params": list(model.stock.parameters()), "lr": weights},
        {"params": list(model.masks.parameters()), "lr": masks},
        {"params": list(model.lagrangian.parameters()), "lr": -multipliers},
    ]
    return optimizer_of_weights(groups, weights)


def optimizer_of_weights(weights: Iterable[Any], lr: float) -> DecoupledAdamW:
    """AdamW over parameters, or groups of them, without decay."""
    return DecoupledAdamW(weights, lr=lr, betas=BETAS, eps=EPSILON, weight_decay=0.0)
