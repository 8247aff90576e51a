"""The loss of a batch, of those of its microbatches."""

import math

from composer import Callback, Logger, State


class BatchLoss(Callback):  # type: ignore[misc]
    """The mean loss of a batch over its rows, which Composer's own state does not keep."""

    def __init__(self) -> None:
        self._losses: list[tuple[float, int]] = []

    @property
    def cross_entropy(self) -> float:
        """Of the last batch, nats a token; NaN before the first."""
        rows = sum(count for _, count in self._losses)
        return sum(loss * count for loss, count in self._losses) / rows if rows else math.nan

    def batch_start(self, state: State, logger: Logger) -> None:
        """Forget the batch before."""
        self._losses.clear()

    def after_loss(self, state: State, logger: Logger) -> None:
        """Note a microbatch, of which the last may be short."""
        self._losses.append((float(state.loss.detach()), len(state.batch["input_ids"])))
