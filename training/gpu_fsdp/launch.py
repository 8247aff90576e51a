"""Starts the ranks: one in this process, or several by torchrun's agent, on one machine or more."""

import json
from typing import Any

import torch.distributed as dist

from espalier.contract.processes import Processes, Share
from espalier.contract.signals import asked_to_stop
from espalier.ranks.launch import run_ranks
from espalier.ranks.told import forget, require_none
from training.gpu_fsdp.job import FsdpRun
from training.gpu_fsdp.worker import BACKENDS, RESULT, run_rank
from training.protocol.progress import RunFolders


def train(
    job: FsdpRun, place: RunFolders, device: str, title: str, processes: Processes
) -> dict[str, Any]:
    """Run all ranks of this machine to their end; the first rank's account.

    Raises:
        RankRefused: input, environment, an interruption or a loss that is no number.
        Interrupted: a process was killed.
        RankCrashed: a process failed by a bug.
    """
    if processes.node == 0:
        _clear(place)
    job.micro_batch(processes.world)
    with asked_to_stop(place.stop):
        if processes.world == 1:
            _alone(job, place, device, title)
        else:
            run_ranks("training.gpu_fsdp.worker", place.output, place.scratch, processes)
    return dict(json.loads((place.scratch / RESULT).read_text()))


def _clear(place: RunFolders) -> None:
    """Remove what an earlier run has left; its states stay."""
    forget(place.scratch)
    for path in (place.stop, place.scratch / RESULT):
        path.unlink(missing_ok=True)


def _alone(job: FsdpRun, place: RunFolders, device: str, title: str) -> None:
    dist.init_process_group(BACKENDS[device], store=dist.HashStore(), rank=0, world_size=1)
    try:
        run_rank(job, place, device, Share(0, 1), title)
    finally:
        dist.destroy_process_group()
    require_none(place.scratch)
