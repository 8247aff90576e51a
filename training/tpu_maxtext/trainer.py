"""What one process does in a training loop, around MaxText's own step."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from espalier.contract.manifest import METRICS
from espalier.contract.processes import Share
from training.maxtext_model.checkpoint import Arrays, StoredWeights, write_checkpoint
from training.maxtext_model.devices import agreed, together
from training.maxtext_model.model import Model
from training.protocol.loop import Loop
from training.protocol.order import Order
from training.protocol.progress import RunFolders
from training.tpu_maxtext.data import Rows, Samples, as_inputs, batches, checked
from training.tpu_maxtext.job import MaxTextRun
from training.tpu_maxtext.mask import KeptEntries
from training.tpu_maxtext.optimizer import optimizer
from training.tpu_maxtext.saved import STEPS
from training.tpu_maxtext.state import (
    Program,
    SavedStates,
    arrays_of,
    broken,
    norm_of,
    replaced,
    weights_of,
    with_fresh_weights,
    with_mask,
    with_weights,
)

SCANNED = True


class MaxTextTrainer(Loop[Rows]):
    """One process's part of a run."""

    def __init__(self, job: MaxTextRun, place: RunFolders, device: str, states: str) -> None:
        self.job = job
        self._share = Share(jax.process_index(), jax.process_count())
        parameters, budget = job.parameters, job.budget
        self._micro = job.micro_batch(jax.device_count())
        self._parts = parameters.batch // jax.device_count() // self._micro
        keys = job.keys(device, jax.device_count())
        stepper = optimizer(parameters, budget.steps, masked=job.zeros is not None)
        self._program = Program.of(Model.of(job.config, keys), stepper)
        self._state = self._started()
        self._saved = SavedStates(states, STEPS, most=2)
        self._kept = SavedStates(states, "best", most=1)
        order = Order(budget.windows, parameters.seed)
        self._samples = Samples(job.records, order, parameters.batch, budget.steps, self._share)
        self._valid = list(self._validation())
        super().__init__(job, place, self._saved, alone=self._share.world == 1)

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
        if job.zeros and job.checkpoint is not None:
            kept = KeptEntries(job.checkpoint, job.shapes, job.zeros, scanned=SCANNED)
            state = with_mask(program, state, kept)
        return state

    def _batches(self, first: int) -> Iterator[Rows]:
        return batches(self._samples, first)

    def _step(self, step: int, batch: Rows) -> dict[str, float]:
        placed = self._placed(as_inputs(batch))
        self._state, measured = self._program.within(self._program.train, self._state, placed)
        scalars = measured["scalar"]
        # Of accumulated parts MaxText sums z-losses that are means already.
        z_loss = float(scalars["learning/z_loss"]) / self._parts
        loss = float(scalars["learning/lm_loss"]) - z_loss
        return {"loss": loss, "grad_norm": float(norm_of(self._state))}

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

    def _validate(self) -> float | None:
        if not self._valid:
            return None
        batches = (self._placed(as_inputs(rows, counted)) for rows, counted in self._valid)
        evaluated = [
            self._program.within(self._program.evaluate, self._state, batch)["scalar"]
            for batch in batches
        ]  # all of them before the first is waited for
        total = count = 0.0
        for measured in evaluated:
            here = float(measured["evaluation/total_weights"])
            total += float(measured["evaluation/total_loss"])
            total -= float(measured["evaluation/z_loss"]) * here
            count += here
        return total / count

    def _agreed(self, asked: bool) -> bool:
        return agreed(asked)

    def _load(self, step: int) -> dict[str, Any]:
        arrays, facts = self._saved.load(step, arrays_of(self._state))
        self._state = replaced(self._state, arrays)
        if self._share.rank == 0:  # the machine may be another
            self._metrics.write_text(facts["metrics"])
        return facts

    def _save(self, step: int) -> None:
        if count := broken(self._state):
            raise RuntimeError(f"{count} pruned weights are not zero at step {step}")
        self._kept.wait()  # a state names the best weights, which are there before it
        metrics = self._metrics.read_text() if self._share.rank == 0 else ""
        facts = {**asdict(self.facts), "metrics": metrics}
        self._saved.save(step, arrays_of(self._state), facts)

    @property
    def _metrics(self) -> Path:
        return self._place.output / METRICS

    def _write(self, target: Path) -> None:
        self._write_weights(self.weights(), target)

    def _write_weights(self, weights: Arrays, target: Path) -> None:
        job = self.job
        write_checkpoint(weights, target, job.config, job.tokenizer, scanned=SCANNED)
        together("written")

    def _keep_best(self) -> None:
        assert self.facts.best is not None  # noqa: S101
        step, _ = self.facts.best
        self._kept.forget(step)
        self._kept.save(step, self.weights(), {})

    def _publish_best(self) -> None:
        self._kept.wait()
        step = self._kept.latest()
        if step is not None:
            weights, _ = self._kept.load(step, self.weights())
            self._write_weights(weights, self._place.best)
