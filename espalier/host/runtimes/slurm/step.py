"""Stages as steps of the job that this process is in: srun, one task a node."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from espalier.contract.cores import slurm_cores, usable_cores
from espalier.contract.manifest import ImageRecord
from espalier.contract.processes import family_of, own_address
from espalier.errors import EnvironmentFailure, InputError
from espalier.host.runtimes.base import Launch, run_to_end
from espalier.host.runtimes.slurm.backends import ContainerBackend

LAST_TASK_SECONDS = 120
"""How long the others may still save after the first task of a step has ended."""
PORTS = range(20000, 30000)
"""Where jobs of several nodes meet: below those that Linux gives to whoever asks for any."""
STEP_KNOWN_SECONDS = 20
ANSWER_SECONDS = 60
ASK_AGAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Placed:
    """What is the same in a job and where it is submitted from: the packages and the paths."""

    place: ContainerBackend

    @property
    def name(self) -> str:
        return "slurm"

    @property
    def cores(self) -> int:
        """What Slurm has given the job on a node, or where there is no job, this machine's."""
        return slurm_cores() or usable_cores()

    def image(self, name: str, device: str, build: bool) -> ImageRecord:
        return self.place.image(name, device, build)

    def seen_path(self, role: str, path: Path) -> str:
        return self.place.seen_path(role, path)

    def require_mountable(self, launch: Launch) -> None:
        self.place.require_mountable(launch)


@dataclass(frozen=True)
class SlurmRuntime(Placed):
    """One step a stage. Training may have several nodes, every other stage has one."""

    network: bool = False

    @property
    def nearby(self) -> "SlurmRuntime":
        return self

    def argv(self, launch: Launch) -> list[str]:
        """The step shares what the job has; the job's batch script is on its first node."""
        nodes = launch.processes.nodes
        return [
            "srun",
            f"--job-name={launch.run_id}",
            *(f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--overlap"),
            *("--mpi=none", "--cpu-bind=none"),
            *("--kill-on-bad-exit=0", f"--wait={LAST_TASK_SECONDS}"),
            *self.place.flags(launch),
            *self.place.command(launch),
        ]

    def run(self, launch: Launch) -> int:
        """Run the step to its end.

        Raises:
            EnvironmentFailure: there is no srun.
            InputError: the job has fewer nodes than are asked for.
        """
        if not shutil.which("srun"):
            raise EnvironmentFailure("no srun is on PATH here; add Slurm's commands to PATH.")
        nodes, had = launch.processes.nodes, int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        if nodes > had:
            raise InputError(f"NODES={nodes} was requested, but this job has {had}.")
        if nodes > 1:
            head = first_node()
            port = meeting_port(head, os.environ.get("SLURM_JOB_ID", ""))
            launch = replace(launch, processes=replace(launch.processes, head=head, port=port))

        def stop(child: "subprocess.Popen[bytes]", number: int) -> None:
            _signal_step(launch.run_id, child)

        return run_to_end(self.argv(launch), self.place.environment(launch), stop)


@dataclass(frozen=True)
class SubmitHostRuntime(Placed):
    """Stages that fetch, on the host that submits: the nodes of many clusters have no network."""

    network: bool = True

    @property
    def nearby(self) -> "SubmitHostRuntime":
        return self

    def argv(self, launch: Launch) -> list[str]:
        return self.place.command(launch)

    def run(self, launch: Launch) -> int:
        return run_to_end(self.argv(launch), self.place.environment(launch))


def first_node() -> str:
    """The address of the job's first node, by which the others reach it.

    Raises:
        EnvironmentFailure: Slurm does not say.
    """
    names = _insisted("scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", ""))
    first = (names.split() or [""])[0]
    shown = _insisted("scontrol", "show", "node", first, "--oneliner") if first else ""
    if found := re.search(r"\bNodeAddr=(\S+)", shown):
        return found[1]
    raise EnvironmentFailure("scontrol does not say which the job's nodes are; is Slurm answering?")


def meeting_port(head: str, job: str) -> int:
    """A port of the first node, on which this runs: the job's own, or the next that is free.

    Jobs that run at once have other numbers, so that they begin to look at other ports.

    Raises:
        EnvironmentFailure: all are taken.
    """
    number = int(job) if job.isdecimal() else 0
    for step in range(len(PORTS)):
        port = PORTS[(number + step) % len(PORTS)]
        if not _taken(head, port):
            return port
    raise EnvironmentFailure(
        f"ports {PORTS.start} to {PORTS.stop - 1} of {head} are all taken; end what listens there."
    )


def _taken(head: str, port: int) -> bool:
    address = own_address(head) or "0.0.0.0"  # noqa: S104 (nothing listens: it is only tried)
    with socket.socket(family_of(address)) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
        except OSError:
            return True
    return False


def _signal_step(name: str, child: "subprocess.Popen[bytes]") -> None:
    """Ask the step's tasks to save and stop; srun itself would kill them at once."""
    job, deadline = os.environ["SLURM_JOB_ID"], time.monotonic() + STEP_KNOWN_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        steps = _asked("squeue", "--noheader", "--steps", f"--jobs={job}", "--format=%i %j")
        for line in steps.splitlines():
            number, _, title = line.strip().partition(" ")
            if title == name:
                _asked("scancel", "--signal=TERM", number)
                return
        time.sleep(0.5)  # srun has not made the step yet
    child.send_signal(signal.SIGTERM)


def _asked(*words: str) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    return done.stdout


def _insisted(*words: str) -> str:
    """What it answers, asked for a minute: a controller may be busy, or be restarted."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while not (answer := _asked(*words)) and time.monotonic() < deadline:
        time.sleep(ASK_AGAIN_SECONDS)
    return answer
