"""Trainings on several GPUs: a process for each, which ends when the last step is saved.

The stage itself goes on from that checkpoint, as it does from one of its own.
"""

from dataclasses import dataclass
from pathlib import Path

from espalier.contract.processes import Processes
from espalier.contract.signals import asked_to_stop
from espalier.contract.stage import StageContext
from espalier.ranks.launch import MEETING_SECONDS, run_ranks
from espalier.ranks.told import forget
from methods.sheared_llama.batches import require_even
from methods.sheared_llama.mask_run import MaskRun
from methods.sheared_llama.saved import FOLDER, STOP

WORKER = "methods.sheared_llama.worker"
BETWEEN_SECONDS = 6 * 3600
"""In which the first machine extracts what masks left, while the others wait for it."""


@dataclass(frozen=True)
class Ranks:
    """A run's processes on this machine.

    Attributes:
        run: what they train.
        output: the stage's partial result.
        processes: of all machines.
    """

    run: MaskRun
    output: Path
    processes: Processes

    @classmethod
    def of(cls, context: StageContext, run: MaskRun) -> "Ranks":
        """As the runtime has set them; what an earlier run's ranks have left is removed.

        Raises:
            InputError: a batch does not divide among them.
        """
        processes, parameters = Processes.from_environment(), run.parameters
        require_even(parameters.batch, processes.world)
        if parameters.recover:
            require_even(parameters.rows_of_recovery, processes.world)
        if processes.node == 0:
            forget(context.scratch)
            (context.scratch / STOP).unlink(missing_ok=True)
        return cls(run, context.output, processes)

    def train(self, folder: str) -> None:
        """Train to the last step, where there are several and steps are left.

        Args:
            folder: of the training's checkpoints.

        Raises:
            RankRefused: input, environment, an interruption or a loss that is no number.
            Interrupted: a process was killed.
            RankCrashed: a process failed by a bug.
        """
        if self.processes.world == 1 or not self.run.unfinished(folder):
            return
        within = MEETING_SECONDS if folder == FOLDER else BETWEEN_SECONDS
        scratch = self.run.scratch
        with asked_to_stop(scratch / STOP):
            run_ranks(WORKER, self.output, scratch, self.processes, named=folder, within=within)
