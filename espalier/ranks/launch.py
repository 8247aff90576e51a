"""Starts a stage's ranks by torchrun's agent, on one machine or more, and says how they ended."""

import logging
import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from espalier.contract.processes import Processes
from espalier.contract.threads import share_threads
from espalier.ranks.lost import ending
from espalier.ranks.meeting import BACKEND
from espalier.ranks.told import can_resume, require_none, told

MEETING_SECONDS = 900
"""In which all machines of a run come to where they meet."""


def run_ranks(
    module: str,
    output: Path,
    scratch: Path,
    processes: Processes,
    *,
    named: str = "",
    within: float = MEETING_SECONDS,
) -> None:
    """Run all ranks of this machine, each `python -m <module> <output>`, to their end.

    Args:
        module: of the ranks.
        output: the partial result.
        scratch: its private folder, where ranks leave why they failed.
        processes: the run's machines, and the ranks of each.
        named: this start among several of one run.
        within: seconds in which all machines come to it.

    Raises:
        RankRefused: input, environment, an interruption or a loss that is no number.
        Interrupted: a process was killed.
        RankCrashed: a process failed by a bug.
    """
    _quiet()
    share_threads(processes.each)
    one = processes.nodes == 1
    if one:  # a container without a network has no name
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    config = LaunchConfig(
        min_nodes=processes.nodes,
        max_nodes=processes.nodes,
        nproc_per_node=processes.each,
        run_id=output.name + named,
        rdzv_backend="c10d" if one else BACKEND,
        rdzv_endpoint="localhost:0" if one else processes.meeting_point,
        rdzv_configs={} if one else {"rank": processes.node, "timeout": within},
        max_restarts=0,
        monitor_interval=0.2,
        local_addr="localhost" if one else None,
        shutdown_timeout=2,
        signals_to_handle="SIGQUIT",  # the others are ours: ranks are asked to stop by a file
    )
    command = (sys.executable, "-m", module, str(output))
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        said = told(scratch)
        # Ranks that have lost another know less than its exit code says.
        killed = any(failure.exitcode < 0 for failure in error.failures.values())
        if not said or (killed and all(map(can_resume, said))):
            raise ending(error, processes.world) from None
    require_none(scratch)


def _quiet() -> None:
    """The agent's loggers say of a failed rank what the rank has said already, with a traceback."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
