"""One rank: `python -m training.gpu_fsdp.worker <partial directory>`, started by torchrun's agent.

What it has to say at its end lies in files of the scratch folder, since torchrun only passes on
that a process failed: `result.json` of the first rank, `error-<rank>.json` of any that refused.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # The stage itself is asked to stop, and asks the ranks by a file: all stop after the same step.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

import torch
import torch.distributed as dist

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.machine import failure_of_the_machine
from espalier.contract.manifest import RUN_FOLDER, RunSpec
from espalier.contract.measure import peak_memory
from espalier.contract.processes import end_with_parent
from espalier.contract.progress import Progress
from espalier.data.tokens.reader import TokenData
from espalier.errors import EspalierError
from espalier.models.device import require_device
from training.gpu_fsdp.job import FsdpRun
from training.gpu_fsdp.lost import crashed, lost_peer
from training.gpu_fsdp.repeatable import repeatable
from training.gpu_fsdp.spec import TrainingParameters
from training.gpu_fsdp.trainer import FsdpTrainer
from training.protocol.order import Share
from training.protocol.progress import RunFolders

RESULT = "result.json"
LESS_MEMORY = "lower MICRO_BATCH, give RECOMPUTE=1 or more GPUS, or free some"
PEER_SAYS_WHY = 5.0
"""Seconds in which the rank that the others have lost may leave the reason."""


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
    try:
        found = work(job, place, device, share, title)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # what torch raises of a checkpoint is no Exception
        failure = _told(error, place.scratch)
        if failure is None:  # a bug: the others learn that it is none of theirs
            _leave(place.scratch, share, crashed(share))
            raise
        _leave(place.scratch, share, failure)
        return None
    if share.rank == 0:
        write_text(place.scratch / RESULT, to_json(found))
    return found


def _leave(scratch: Path, share: Share, failure: EspalierError) -> None:
    said = {"kind": type(failure).__name__, "code": failure.exit_code, "text": str(failure)}
    write_text(scratch / f"error-{share.rank}.json", to_json(said))


def _told(error: BaseException, scratch: Path) -> EspalierError | None:
    """A failure in a sentence; None: it is a bug, which has a traceback."""
    if isinstance(error, EspalierError):
        return error
    if (failure := failure_of_the_machine(error, LESS_MEMORY)) is not None:
        return failure
    if (lost := lost_peer(error)) is not None:
        deadline = time.monotonic() + PEER_SAYS_WHY
        while time.monotonic() < deadline and not any(scratch.glob("error-*.json")):
            time.sleep(0.2)
    return lost


def main(output: Path) -> None:
    """Join the process group that torchrun's variables describe, and train."""
    end_with_parent(signal.SIGKILL)  # no rank works on beside the next run of a killed stage
    spec = RunSpec.model_validate_json((output / RUN_FOLDER / "run.json").read_bytes())
    parameters = TrainingParameters.model_validate(spec.parameters)
    require_device(spec.device)
    share = Share(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if spec.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if spec.device == "cuda" else "gloo")
    inputs = {role: Path(path) for role, path in spec.inputs.items()}
    _end_with_others(output / RUN_FOLDER / "scratch")
    place = RunFolders(output / RUN_FOLDER / "scratch", output)
    found = run_rank(FsdpRun.of(parameters, inputs), place, spec.device, share, spec.name)
    if found is None:
        os._exit(1)
    dist.destroy_process_group()


def _end_with_others(scratch: Path) -> None:
    """Stop at once where another rank has refused something: it will be waited for in vain."""

    def watch() -> None:
        while not any(scratch.glob("error-*.json")):
            time.sleep(1)
        time.sleep(1)  # a rank that has something to say itself has said it by then
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
