"""What every rank does, whatever it trains: begin, and leave what has failed for the stage.

A stage itself is asked to stop, and asks its ranks by a file, so that all stop after the same step.
A rank's module ignores signals before it imports torch (`espalier.contract.signals.ignore_stops`).
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from espalier.contract.context import scratch_of
from espalier.contract.machine import failure_of_the_machine
from espalier.contract.manifest import RUN_FOLDER, RunSpec
from espalier.contract.processes import Share, end_with_parent
from espalier.errors import EspalierError
from espalier.models.device import require_device
from espalier.ranks.lost import crashed, lost_peer
from espalier.ranks.told import any_told, leave

Found = TypeVar("Found")
PEER_SAYS_WHY = 5.0
"""Seconds in which the rank that the others have lost may leave the reason."""


@dataclass(frozen=True)
class Rank:
    """One of a stage's ranks, started by torchrun's agent.

    Attributes:
        spec: of the stage's run.
        output: its partial result.
        share: which rank this is, of how many.
    """

    spec: RunSpec
    output: Path
    share: Share

    @property
    def scratch(self) -> Path:
        """The run's private folder."""
        return scratch_of(self.output)

    @classmethod
    def begin(cls, output: Path) -> "Rank":
        """Take this process's place among those that torchrun's variables describe.

        It ends where the stage ends, and where another rank has failed: that one would be waited
        for in vain.
        """
        end_with_parent(signal.SIGKILL)  # no rank works on beside the next run of a killed stage
        spec = RunSpec.model_validate_json((output / RUN_FOLDER / "run.json").read_bytes())
        require_device(spec.device)
        share = Share(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        if spec.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        rank = cls(spec, output, share)
        threading.Thread(target=rank._end_with_others, daemon=True).start()
        return rank

    def meet(self, named: str, within: timedelta) -> None:
        """Come together in a process group, for the meeting of that name.

        What an earlier meeting of the run has said is in the agents' store yet, where there are
        several machines, and names are all that keeps it apart.

        Args:
            named: the meeting, among those of this run.
            within: how long one waits for another.
        """
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, timeout=within)
        dist.init_process_group(
            "nccl" if self.spec.device == "cuda" else "gloo",
            store=dist.PrefixStore(named, store),
            rank=self.share.rank,
            world_size=self.share.world,
            timeout=within,
        )

    def _end_with_others(self) -> None:
        while not any_told(self.scratch):
            time.sleep(1)
        time.sleep(1)  # a rank that has something to say itself has said it by then
        os._exit(1)


def carried_out(
    work: Callable[[], Found], scratch: Path, share: Share, less_memory: str
) -> Found | None:
    """What `work` gives; None: it has failed, and a file in `scratch` says why.

    Args:
        work: a rank's part.
        scratch: the run's private folder.
        share: which rank this is.
        less_memory: what to do where memory has run out.
    """
    try:
        return work()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # what torch raises of a checkpoint is no Exception
        failure = _in_a_sentence(error, scratch, less_memory)
        if failure is None:  # a bug: the others learn that it is none of theirs
            leave(scratch, share, crashed(share))
            raise
        leave(scratch, share, failure)
        return None


def _in_a_sentence(error: BaseException, scratch: Path, less_memory: str) -> EspalierError | None:
    """A failure; None: it is a bug, which has a traceback."""
    if isinstance(error, EspalierError):
        return error
    if (failure := failure_of_the_machine(error, less_memory)) is not None:
        return failure
    if (lost := lost_peer(error)) is not None:
        deadline = time.monotonic() + PEER_SAYS_WHY
        while time.monotonic() < deadline and not any_told(scratch):
            time.sleep(0.2)
    return lost
