"""What a run shows and how it stops: its progress, and a signal that ends it behind a batch."""

import math
import signal
from pathlib import Path
from types import FrameType

from composer import Callback, Event, Logger, State

from espalier.contract.progress import Steps
from espalier.errors import Diverged
from espalier.models.shapes import Shapes
from methods.sheared_llama.expected import expected_shape
from methods.sheared_llama.learning import MaskLearning
from methods.sheared_llama.model import ShearedModel
from methods.sheared_llama.saved import steps_saved

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Following(Callback):  # type: ignore[misc]
    """Counts steps, and ends the run behind the batch in which it was asked to.

    Args:
        steps: is told of each.
        learning: knows the loss.
        scratch: where checkpoints lie.
        parent: shapes of what is sheared.
        seqlen: tokens a row.
        last: the number of the last step.
        save_every: steps between checkpoints.
        evaluate_every: steps between evaluations.

    Attributes:
        asked: whether it has to end.
    """

    def __init__(
        self,
        steps: Steps,
        learning: MaskLearning,
        scratch: Path,
        parent: Shapes,
        *,
        seqlen: int,
        last: int,
        save_every: int,
        evaluate_every: int,
    ) -> None:
        self._steps, self._learning, self._scratch = steps, learning, scratch
        self._parent = parent
        self._seqlen, self._last = seqlen, last
        self._save_every, self._evaluate_every = save_every, evaluate_every
        self.asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """End behind this batch: the handler of a signal."""
        self.asked = True

    def batch_end(self, state: State, logger: Logger) -> None:
        """Show the step: the loss, the expected shape, and how much of the target is asked for.

        Raises:
            Diverged: the loss is NaN or infinite.
        """
        model = state.model
        assert isinstance(model, ShearedModel)  # noqa: S101
        probabilities = model.masks.expected()
        shape = expected_shape(probabilities, self._parent, self._seqlen)
        step = int(state.timestamp.batch)
        loss = self._learning.cross_entropy
        if not math.isfinite(loss):
            raise Diverged.at(step, steps_saved(self._scratch))
        self._steps.advance(
            loss=loss,
            layers=shape.layers,
            hidden=shape.hidden,
            kv_heads=shape.kv_heads,
            ffn=shape.ffn,
            target=model.lagrangian.share(step - 1),
            multiplier=float(model.lagrangian.lambda1.detach().abs().max()),
        )
        if self.asked and step < self._last:
            state.stop_training()

    def saves(self, state: State, event: Event) -> bool:
        """Whether a checkpoint is written now."""
        step = int(state.timestamp.batch)
        due = self.asked or step == self._last or step % self._save_every == 0
        return event == Event.BATCH_CHECKPOINT and due

    def evaluates(self, state: State, event: Event) -> bool:
        """Whether the held-out rows are evaluated now."""
        step = int(state.timestamp.batch)
        return event == Event.BATCH_END and (step == self._last or step % self._evaluate_every == 0)
