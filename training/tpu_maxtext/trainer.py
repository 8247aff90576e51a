"""The training loop of one process, around MaxText's own step."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from espalier.errors import Interrupted
from training.protocol.metrics import Metrics
from training.protocol.order import Order, Share
from training.protocol.progress import Diverged, Facts, Place
from training.tpu_maxtext.checkpoint import StoredWeights, write_checkpoint
from training.tpu_maxtext.data import Rows, Samples, as_inputs, batches, checked
from training.tpu_maxtext.devices import agreed, together
from training.tpu_maxtext.job import Job
from training.tpu_maxtext.model import Model
from training.tpu_maxtext.optimizer import optimizer
from training.tpu_maxtext.state import (
    Program,
    SavedStates,
    arrays_of,
    broken,
    weights_of,
    with_fresh_weights,
    with_mask,
    with_weights,
)

SCANNED = True


class Trainer:
    """One process's part of a run."""

    def __init__(self, job: Job, place: Place, device: str, states: str) -> None:
        self.job, self._place = job, place
        self._share = Share(jax.process_index(), jax.process_count())
        parameters, budget = job.parameters, job.budget
        self._micro = job.micro_batch(jax.device_count())
        keys = job.keys(device, jax.device_count())
        stepper = optimizer(parameters, budget.steps, masked=job.masked)
        self._program = Program.of(Model.of(job.config, keys), stepper)
        self._state = self._started()
        self._states = SavedStates(states)
        order = Order(budget.windows, parameters.seed)
        self._samples = Samples(job.records, order, parameters.batch, budget.steps, self._share)
        self._valid = list(self._validation())
        self.facts = Facts()

    def resume(self) -> int:
        """Load the last complete state; the step that comes next."""
        step = self._states.latest()
        if step is None:
            return 0
        self._state, facts = self._states.load(step, self._state)
        self.facts = Facts.of(facts)
        return step

    def run(self, first: int, metrics: Metrics) -> None:
        """Train from step `first` to the last, and write the result to the output.

        Raises:
            Interrupted: asked to stop; all is saved.
            Diverged: the loss is NaN or infinite.
        """
        parameters, total = self.job.parameters, self.job.budget.steps
        for step, (rows, waited) in zip(range(first, total), self._timed(first), strict=False):
            values = self._step(step, rows, waited)
            done, self.facts.loss = step + 1, values["loss"]
            if self._valid and parameters.due(parameters.valid_every, done, total):
                values["valid_loss"] = self._validate(done)
            metrics.advance(**values)
            stop = agreed(self._place.stop.exists())
            if stop or parameters.due(parameters.save_every, done, total):
                self._save(done)
            if stop and done < total:
                self._states.wait()
                raise Interrupted("interrupted; the same command goes on from here.")
        self._states.wait()
        self._write(self._place.output)

    def weights(self) -> dict[tuple[str, ...], jax.Array]:
        """The parameters as they are now."""
        return weights_of(self._state)

    def _started(self) -> Any:
        """The state of step 0: a checkpoint's weights or fresh ones, and its mask."""
        job, program = self.job, self._program
        state = program.start()
        stored = None
        if job.checkpoint is not None:
            stored = StoredWeights(job.checkpoint, job.shapes, scanned=SCANNED)
        if job.parameters.init == "random" or stored is None:
            deviation = float(job.config.get("initializer_range") or 0.02)
            state = with_fresh_weights(program, state, job.parameters.seed, deviation)
        else:
            state = with_weights(program, state, stored)
        if job.masked and stored is not None:
            state = with_mask(program, state, stored, SCANNED)
        return state

    def _timed(self, first: int) -> Iterator[tuple[Rows, float]]:
        """The process's rows of each step, and how long they were waited for."""
        source = batches(self._samples, first)
        while True:
            began = time.perf_counter()
            rows = next(source, None)
            if rows is None:
                return
            yield rows, time.perf_counter() - began

    def _step(self, step: int, rows: Rows, waited: float) -> dict[str, float]:
        """One optimizer step over the whole batch; its metrics."""
        began = time.perf_counter()
        budget = self.job.budget
        batch = self._placed(as_inputs(rows))
        self._state, told = self._program.within(self._program.train, self._state, batch)
        scalars = told["scalar"]
        loss = float(scalars["learning/lm_loss"]) - float(scalars["learning/z_loss"])
        norm = float(self._norm())
        if not math.isfinite(loss + norm):
            self._states.wait()
            raise Diverged.at(step + 1, self._states.latest())
        seconds = time.perf_counter() - began + waited
        return {
            "loss": loss,
            "tokens": (step + 1) * budget.step_tokens,
            "lr": self.job.parameters.rate(step, budget.steps),
            "grad_norm": norm,
            "tokens_per_second": budget.step_tokens / seconds,
            "data_share": waited / seconds,
        }

    def _norm(self) -> jax.Array:
        arrays = arrays_of(self._state)
        return next(
            a for path, a in arrays.items() if path[0] == "optimizer" and path[-1] == "norm"
        )

    def _placed(self, inputs: Mapping[str, Rows]) -> dict[str, jax.Array]:
        """The process's rows as its part of global arrays."""
        return {
            name: jax.make_array_from_process_local_data(self._program.data_sharding, rows)
            for name, rows in inputs.items()
        }

    def _validation(self) -> Iterator[tuple[Rows, np.ndarray[Any, Any]]]:
        """The first rows of the valid split in batches, and which of a batch's rows count."""
        records, seqlen = self.job.records, self.job.budget.seqlen
        count = records.rows.get("valid", 0)
        limit = min(count, max(1, self.job.parameters.valid_tokens // seqlen)) if count else 0
        if not limit:
            return
        source, whole = records.source("valid"), self._micro * jax.device_count()
        size = whole // self._share.world
        for start in range(self._share.rank * size, limit + self._share.rank * size, whole):
            wanted = np.arange(start, start + size)
            rows = [checked(source[int(n) % limit], records) for n in wanted]
            yield np.stack(rows), wanted < limit

    def _validate(self, step: int) -> float:
        """Mean cross-entropy of the validation rows; the best weights so far are kept."""
        total = count = 0.0
        for rows, counted in self._valid:
            batch = self._placed(as_inputs(rows, counted))
            told = self._program.within(self._program.evaluate, self._state, batch)["scalar"]
            here = float(told["evaluation/total_weights"])
            total += float(told["evaluation/total_loss"])
            total -= float(told["evaluation/z_loss"]) * here
            count += here
        loss = total / count
        if not math.isfinite(loss):
            raise Diverged.at(step, self._states.latest())
        self.facts.valid.append((step, loss))
        if self.facts.best is None or loss < self.facts.best[1]:
            self.facts.best = (step, loss)
            if step < self.job.budget.steps:
                self._write(self._place.best)
        return loss

    def _save(self, step: int) -> None:
        if count := broken(self._state):
            raise RuntimeError(f"{count} pruned weights are not zero at step {step}")
        self._states.save(step, self._state, asdict(self.facts))

    def _write(self, target: Path) -> None:
        job = self.job
        write_checkpoint(self.weights(), target, job.config, job.tokenizer, scanned=SCANNED)
        together(f"written {target.name}")
