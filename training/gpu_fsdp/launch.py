"""Starts the ranks: one in this process, or several by torchrun's agent, on one machine or more."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from espalier.contract.processes import Processes
from espalier.contract.threads import share_threads
from espalier.errors import EspalierError, Interrupted
from training.gpu_fsdp.job import FsdpRun
from training.gpu_fsdp.lost import ending
from training.gpu_fsdp.meeting import BACKEND
from training.gpu_fsdp.worker import RESULT, run_rank
from training.protocol.order import Share
from training.protocol.progress import RunFolders, asked_to_stop


class RankRefused(EspalierError):
    """What a rank has refused, with its own exit code."""

    def __init__(self, failure: dict[str, Any]) -> None:
        super().__init__(str(failure["text"]))
        self.exit_code = int(failure["code"])


def train(
    job: FsdpRun, place: RunFolders, device: str, title: str, processes: Processes
) -> dict[str, Any]:
    """Run all ranks of this machine to their end; the first rank's account.

    Raises:
        RankRefused: input, environment, an interruption or a loss that is no number.
        Interrupted: a process was killed.
        RankCrashed: a process failed by a bug.
    """
    _clear(place.scratch, processes)
    job.micro_batch(processes.world)
    with asked_to_stop(place.stop):
        if processes.world == 1:
            _alone(job, place, device, title)
        else:
            _several(place, processes)
    return outcome(place.scratch)


def outcome(scratch: Path) -> dict[str, Any]:
    """The first rank's account.

    Raises:
        RankRefused: a rank has refused something.
    """
    if said := _said(scratch):  # that another is gone says less than why it is
        raise RankRefused(min(said, key=_can_resume))
    return dict(json.loads((scratch / RESULT).read_text()))


def _said(scratch: Path) -> list[dict[str, Any]]:
    """What ranks have left of their failures."""
    return [json.loads(path.read_text()) for path in sorted(scratch.glob("error-*.json"))]


def _can_resume(failure: Mapping[str, Any]) -> bool:
    return bool(failure["code"] == Interrupted.exit_code)


def _clear(scratch: Path, processes: Processes) -> None:
    """Remove what an earlier run has left; its states stay."""
    if processes.node == 0:
        for path in [scratch / "stop", scratch / RESULT, *scratch.glob("error-*.json")]:
            path.unlink(missing_ok=True)


def _alone(job: FsdpRun, place: RunFolders, device: str, title: str) -> None:
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        run_rank(job, place, device, Share(0, 1), title)
    finally:
        dist.destroy_process_group()


def _several(place: RunFolders, processes: Processes) -> None:
    _quiet()
    share_threads(processes.each)
    one = processes.nodes == 1
    if one:
        os.environ.setdefault(
            "GLOO_SOCKET_IFNAME", "lo"
        )  # a container without a network has no name
    config = LaunchConfig(
        min_nodes=processes.nodes,
        max_nodes=processes.nodes,
        nproc_per_node=processes.each,
        run_id=place.output.name,
        rdzv_backend="c10d" if one else BACKEND,
        rdzv_endpoint="localhost:0" if one else processes.meeting_point,
        rdzv_configs={} if one else {"rank": processes.node, "timeout": 900},
        max_restarts=0,
        monitor_interval=0.2,
        local_addr="localhost" if one else None,
        shutdown_timeout=2,
        signals_to_handle="SIGQUIT",  # the others are ours: ranks are asked to stop by a file
    )
    command = (sys.executable, "-m", "training.gpu_fsdp.worker", str(place.output))
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        said = _said(place.scratch)
        # Ranks that have lost another know less than its exit code says.
        killed = any(failure.exitcode < 0 for failure in error.failures.values())
        if not said or (killed and all(map(_can_resume, said))):
            raise ending(error, processes.world) from None


def _quiet() -> None:
    """The agent's loggers say of a failed rank what the rank has said already, with a traceback."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
