"""What a run shows and how it stops: its progress, and a signal that ends it behind a batch."""

import math
import signal
from collections.abc import Callable, Mapping
from types import FrameType

from composer import Callback, Event, Logger, State

from espalier.contract.progress import Steps
from espalier.errors import Diverged
from espalier.models.shapes import Shapes
from methods.sheared_llama.expected import expected_shape
from methods.sheared_llama.model import ShearedModel

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Following(Callback):  # type: ignore[misc]
    """Counts steps, and ends the run behind the batch in which it was asked to.

    Args:
        steps: is told of each.
        saved: how many steps the last checkpoint has behind it.
        loss: of the batch before.
        figures: what else there is to say of a step, by name.
        last: the number of the last step.
        save_every: steps between checkpoints.
        evaluate_every: steps between evaluations.

    Attributes:
        asked: whether it has to end.
    """

    def __init__(
        self,
        steps: Steps,
        saved: Callable[[], int],
        loss: Callable[[], float],
        figures: Callable[[State], Mapping[str, float]],
        *,
        last: int,
        save_every: int,
        evaluate_every: int,
    ) -> None:
        self._steps, self._saved, self._loss, self._figures = steps, saved, loss, figures
        self._last, self._save_every, self._evaluate_every = last, save_every, evaluate_every
        self.asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """End behind this batch: the handler of a signal."""
        self.asked = True

    def batch_end(self, state: State, logger: Logger) -> None:
        """Show the step: the loss, and what else there is to say.

        Raises:
            Diverged: the loss is NaN or infinite.
        """
        step, loss = int(state.timestamp.batch), self._loss()
        if not math.isfinite(loss):
            raise Diverged.at(step, self._saved())
        self._steps.advance(loss=loss, **self._figures(state))
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


def figures_of_masks(state: State, parent: Shapes, seqlen: int) -> dict[str, float]:
    """The expected shape of what is left, how much of the target is asked for, the largest λ₁.

    Args:
        state: Composer's, behind a step.
        parent: shapes of what is sheared.
        seqlen: tokens a row.
    """
    model = state.model
    assert isinstance(model, ShearedModel)  # noqa: S101
    shape = expected_shape(model.masks.expected(), parent, seqlen)
    return {
        "layers": shape.layers,
        "hidden": shape.hidden,
        "kv_heads": shape.kv_heads,
        "ffn": shape.ffn,
        "target": model.lagrangian.share(int(state.timestamp.batch) - 1),
        "multiplier": float(model.lagrangian.lambda1.detach().abs().max()),
    }
