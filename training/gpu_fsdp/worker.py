"""One rank: `python -m training.gpu_fsdp.worker <partial directory>`, started by torchrun's agent.

What it has to say at its end lies in files of the scratch folder, since torchrun only passes on
that a process failed: `result.json` of the first rank, `error-<rank>.json` of any that refused.
"""

import os
import sys
from pathlib import Path
from typing import Any

from espalier.contract.signals import ignore_stops

if __name__ == "__main__":
    ignore_stops()

import torch
import torch.distributed as dist

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.measure import peak_memory
from espalier.contract.processes import Share
from espalier.contract.progress import Progress
from espalier.data.tokens.reader import TokenData
from espalier.ranks.rank import Rank, carried_out
from training.gpu_fsdp.job import FsdpRun
from training.gpu_fsdp.repeatable import repeatable
from training.gpu_fsdp.spec import TrainingParameters
from training.gpu_fsdp.trainer import FsdpTrainer
from training.protocol.progress import RunFolders

RESULT = "result.json"
LESS_MEMORY = "lower MICRO_BATCH, give RECOMPUTE=1 or more GPUS, or free some"
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""What moves tensors between ranks, by device."""


def work(job: FsdpRun, place: RunFolders, device: str, share: Share, title: str) -> dict[str, Any]:
    """Train in an initialised process group; the account of it, the same on every rank."""
    with repeatable():
        if job.parameters.verify:
            TokenData(job.data).verify(share.rank, share.world)
        trainer = FsdpTrainer(job, place, device, share)
        found = trainer.carry_out(title, Progress(None), share.rank, job.parameters.tracker)
    on_gpu = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {**found, "peak_bytes": on_gpu or peak_memory()}


def run_rank(
    job: FsdpRun, place: RunFolders, device: str, share: Share, title: str
) -> dict[str, Any] | None:
    """As `work`, with what has failed left in a file for the stage, and the result too."""
    found = carried_out(
        lambda: work(job, place, device, share, title), place.scratch, share, LESS_MEMORY
    )
    if found is not None and share.rank == 0:
        write_text(place.scratch / RESULT, to_json(found))
    return found


def main(output: Path) -> None:
    """Join the process group that torchrun's variables describe, and train."""
    rank = Rank.begin(output)
    spec = rank.spec
    dist.init_process_group(BACKENDS[spec.device])
    inputs = {role: Path(path) for role, path in spec.inputs.items()}
    job = FsdpRun.of(TrainingParameters.model_validate(spec.parameters), inputs)
    place = RunFolders(rank.scratch, output)
    if run_rank(job, place, spec.device, rank.share, spec.name) is None:
        os._exit(1)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
