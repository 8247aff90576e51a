"""The loop of a run, which every trainer has: step, validate, save, stop. Needs no torch."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Generic, Protocol, TypeVar

from espalier.contract.progress import Progress
from espalier.contract.saved import AGAIN
from espalier.errors import Diverged, Interrupted
from training.protocol.metrics import Metrics, followed
from training.protocol.progress import Facts, RunFolders
from training.protocol.run import Run

Batch = TypeVar("Batch")


class States(Protocol):
    """A run's saved states, written in the background."""

    def latest(self) -> int | None:
        """The step of the last complete one."""

    def wait(self) -> None:
        """Until the last one is complete."""


class Loop(ABC, Generic[Batch]):
    """One process's part of a run; all processes go through it together.

    Attributes:
        facts: what is known of the run so far; equal on all processes.

    Args:
        alone: whether there is one process.
    """

    def __init__(self, run: Run, place: RunFolders, states: States, *, alone: bool) -> None:
        self._run, self._place, self._states, self._alone = run, place, states, alone
        self.facts = Facts()

    def carry_out(
        self, title: str, progress: Progress, rank: int = 0, tracker: str = "none"
    ) -> dict[str, Any]:
        """Train from where the last run stopped to the end; the facts, and the usual speed.

        Raises:
            Interrupted: asked to stop; all is saved.
            Diverged: the loss is NaN or infinite.
        """
        first, budget = self.resume(), self._run.budget
        if rank == 0:
            progress.say(f"{title}: {budget}" + (f", from step {first}" if first else ""))
        with followed(self._place.output, title, (first, budget.steps), rank, tracker) as metrics:
            self.run(first, metrics)
        return {
            **asdict(self.facts),
            "tokens_per_second": round(median(metrics.speeds or [0.0])),
            "data_share": round(median(metrics.waits or [0.0]), 5),
        }

    def resume(self) -> int:
        """Load the last complete state; the step that comes next."""
        step = self._states.latest()
        if step is None:
            return 0
        self.facts = Facts.of(self._load(step))
        return step

    def run(self, first: int, metrics: Metrics) -> None:
        """Train from step `first` to the last, and write the result to the output.

        Raises:
            Interrupted: asked to stop; all is saved.
            Diverged: the loss is NaN or infinite.
        """
        try:
            self._train(first, metrics)
        except Exception:
            if self._alone:  # whose last state is whole in a moment; no other rank is waited for
                with suppress(Exception):
                    self._states.wait()
            raise
        self._states.wait()
        self._write(self._place.output)
        if self.facts.best and self.facts.best[0] < self._run.budget.steps:
            self._publish_best()

    def _train(self, first: int, metrics: Metrics) -> None:
        parameters, total = self._run.parameters, self._run.budget.steps
        for step, (batch, waited) in zip(
            range(first, total), timed(self._batches(first)), strict=True
        ):
            done = step + 1
            values = self._measured(step, batch, waited)
            if parameters.due(parameters.valid_every, done, total):
                values |= self._validated(done)
            metrics.advance(**values)
            stop = self._agreed(self._place.stop.exists())
            if stop or parameters.due(parameters.save_every, done, total):
                self._save(done)
            if stop and done < total:
                self._states.wait()
                raise Interrupted(f"interrupted; {AGAIN}.")

    def _measured(self, step: int, batch: Batch, waited: float) -> dict[str, float]:
        """One step's metrics; the time that its batch was waited for counts."""
        began, budget = time.perf_counter(), self._run.budget
        measured = self._step(step, batch)
        if not all(map(math.isfinite, measured.values())):
            self._diverged(step + 1)
        self.facts.loss = measured["loss"]
        seconds = time.perf_counter() - began + waited
        tokens = budget.tokens_after(step + 1)
        return {
            **measured,
            "tokens": tokens,
            "lr": self._run.parameters.rate(step, budget.steps),
            "tokens_per_second": (tokens - budget.tokens_after(step)) / seconds,
            "data_share": waited / seconds,
        }

    def _validated(self, step: int) -> dict[str, float]:
        """The validation's loss, where there is one; the best weights so far are kept."""
        loss = self._validate()
        if loss is None:
            return {}
        if not math.isfinite(loss):
            self._diverged(step)
        self.facts.valid.append((step, loss))
        if self.facts.best is None or loss < self.facts.best[1]:
            self.facts.best = (step, loss)
            if step < self._run.budget.steps:
                self._keep_best()
        return {"valid_loss": loss}

    def _diverged(self, step: int) -> None:
        self._states.wait()
        raise Diverged.at(step, self._states.latest())

    @abstractmethod
    def _batches(self, first: int) -> Iterator[Batch]:
        """The process's part of every batch from step `first`; as many as there are steps."""

    @abstractmethod
    def _step(self, step: int, batch: Batch) -> dict[str, float]:
        """One optimizer step; its `loss` and `grad_norm`, over all processes, and what else."""

    @abstractmethod
    def _validate(self) -> float | None:
        """Mean cross-entropy over the validation's tokens; None: the data have none."""

    @abstractmethod
    def _agreed(self, asked: bool) -> bool:
        """Whether any process asks: the same answer on all of them."""

    @abstractmethod
    def _load(self, step: int) -> Mapping[str, Any]:
        """Put a saved state in place; the facts saved with it."""

    @abstractmethod
    def _save(self, step: int) -> None:
        """Save the state, and the facts with it, unless a pruned weight is not zero."""

    @abstractmethod
    def _write(self, target: Path) -> None:
        """Write the weights as a checkpoint."""

    @abstractmethod
    def _keep_best(self) -> None:
        """Keep the weights as they are now, in place of earlier ones, wherever the states are."""

    @abstractmethod
    def _publish_best(self) -> None:
        """Write the weights that were kept as the checkpoint `best` of the output."""


def timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """The batches, and how long each of them was waited for, in seconds."""
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - began
