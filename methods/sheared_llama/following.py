"""What a run shows and how it stops: its progress, and a signal that ends it behind a batch."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import torch
from composer import Callback, Event, Logger, State
from composer.utils import dist

from espalier.contract.progress import Steps
from espalier.errors import Diverged
from espalier.models.shapes import Shapes
from methods.sheared_llama.expected import expected_shape
from methods.sheared_llama.model import ShearedModel


class Following(Callback):  # type: ignore[misc]
    """Counts steps, and ends the run behind the batch in which it was asked to, on all ranks.

    Args:
        steps: is told of each.
        saved: how many steps the last checkpoint has behind it.
        loss: of the batch before.
        figures: what else there is to say of a step, by name.
        stop: a file that asks for an end as soon as it is there.
        last: the number of the last step.
        save_every: steps between checkpoints.
        evaluate_every: steps between evaluations.

    Attributes:
        asked: whether this rank was asked to end.
        ends: whether all do, behind the last batch.
    """

    def __init__(
        self,
        steps: Steps,
        saved: Callable[[], int],
        loss: Callable[[], float],
        figures: Callable[[State], Mapping[str, float]],
        *,
        stop: Path,
        last: int,
        save_every: int,
        evaluate_every: int,
    ) -> None:
        self._steps, self._saved, self._loss, self._figures = steps, saved, loss, figures
        self._stop = stop
        self._last, self._save_every, self._evaluate_every = last, save_every, evaluate_every
        self.asked = self.ends = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """End behind this batch: the handler of a signal."""
        self.asked = True

    def batch_end(self, state: State, logger: Logger) -> None:
        """Show the step: the loss, and what else there is to say.

        Raises:
            Diverged: the loss is NaN or infinite.
        """
        step, loss = int(state.timestamp.batch), self._agreed(state)
        if not math.isfinite(loss):
            raise Diverged.at(step, self._saved())
        self._steps.advance(loss=loss, **self._figures(state))
        if self.ends and step < self._last:
            state.stop_training()

    def _agreed(self, state: State) -> float:
        """The loss of the batch on all ranks, and whether any was asked to end."""
        said = [self._loss(), float(self.asked or self._stop.exists())]
        on_all = state.device.tensor_to_device(torch.tensor(said, dtype=torch.float64))
        dist.all_reduce(on_all)
        loss, asked = on_all.tolist()
        self.ends = asked > 0
        return float(loss / dist.get_world_size())

    def saves(self, state: State, event: Event) -> bool:
        """Whether a checkpoint is written now."""
        step = int(state.timestamp.batch)
        due = self.ends or step == self._last or step % self._save_every == 0
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
