"""Training state on disk: torch's distributed checkpoints, written while training goes on.

They are working files below the partial result: the next run of the same command reads them, on any
number of ranks, and nothing of them is published.
"""

import json
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.optim import Optimizer

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from training.gpu_fsdp.model import LanguageModel
from training.gpu_fsdp.reading import PlainPlanner, StateReader
from training.gpu_fsdp.saved import COMPLETE, complete_steps

FACTS = "facts.json"
KEPT = 2


class TrainingState:
    """Checkpoints `step-<n>` in a folder; those that are not complete are passed over."""

    def __init__(
        self, folder: Path, model: LanguageModel, optimizers: list[Optimizer], rank: int
    ) -> None:
        self._folder, self._model, self._optimizers, self._rank = folder, model, optimizers, rank
        self._writing: Future[Any] | None = None
        # Its own: a checkpoint is agreed upon on a thread, while the steps go on meeting in theirs.
        self._group = dist.new_group(backend="gloo")

    def latest(self) -> int | None:
        """The step of the last complete checkpoint."""
        return max(complete_steps(self._folder), default=None)

    def load(self, step: int) -> dict[str, Any]:
        """Put a checkpoint's weights and moments in place; the facts saved with it.

        Raises:
            EnvironmentFailure: its description is damaged.
        """
        place = self._place(step)
        model, moments = get_state_dict(self._model, self._optimizers)
        dcp.load(
            {"model": model, "optimizers": moments},
            storage_reader=StateReader(place),
            planner=PlainPlanner(),
        )
        set_state_dict(
            self._model, self._optimizers, model_state_dict=model, optim_state_dict=moments
        )
        return dict(json.loads((place / FACTS).read_text()))

    def save(self, step: int, facts: dict[str, Any]) -> None:
        """Begin to write a checkpoint; it is complete after `wait`, or the next `save`."""
        self.wait()
        place = self._place(step)
        if self._rank == 0:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            write_text(place / FACTS, to_json(facts))
        dist.barrier()
        model, moments = get_state_dict(self._model, self._optimizers)
        self._writing = dcp.async_save(
            {"model": model, "optimizers": moments},
            checkpoint_id=place,
            process_group=self._group,
        )

    def wait(self) -> None:
        """Until the last checkpoint is complete; then older ones are removed.

        Raises:
            CheckpointException: a rank could not write it; those before it stay.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except BaseException:  # a full disk gets its space back
            if self._rank == 0:
                for place in self._folder.glob("step-*"):
                    if not (place / COMPLETE).is_file():
                        shutil.rmtree(place, ignore_errors=True)
            raise
        if self._rank == 0:
            for step in sorted(complete_steps(self._folder))[:-KEPT]:
                shutil.rmtree(self._place(step))

    def _place(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"
