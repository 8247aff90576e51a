"""What a runtime is given, and what it must be able to do."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol, runtime_checkable

from espalier.contract.manifest import ImageRecord
from espalier.contract.paths import ROOT
from espalier.contract.processes import Processes
from espalier.contract.signals import handled
from espalier.contract.threads import THREADS
from espalier.host.gpus import Gpu

COMMAND = ("python", "-m", "espalier.run_stage")


@dataclass(frozen=True)
class Limits:
    """Passed on to the engine; bytes and cores."""

    memory: int | None = None
    cpus: float | None = None


@dataclass(frozen=True)
class Launch:
    """One start of a stage.

    Attributes:
        run_id: unique to the artifact and recipe, so that a stale container can be found.
        inputs: role to host path, mounted read-only.
        output: the partial artifact on the host, the only place that is writable.
        compiled: where XLA keeps compiled programs from run to run, for stages that compile.
        secrets: environment name of the file's place to host file, for fetch stages only.
        threads: that it computes with, all its processes together; None: as many as it has cores.
        gpus: that it is shown, where it computes on some; None: all.
    """

    image: str
    device: str
    run_id: str
    inputs: Mapping[str, Path]
    output: Path
    network: bool = False
    secrets: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    compiled: Path | None = None
    processes: Processes = field(default_factory=Processes)
    threads: int | None = None
    gpus: tuple[Gpu, ...] | None = None


class Runtime(Protocol):
    """A way to start a stage's command."""

    @property
    def name(self) -> str:
        """As RUNTIME= has it."""

    @property
    def network(self) -> bool:
        """Whether stages that fetch can run there."""

    @property
    def cores(self) -> int | None:
        """Cores that a stage may use there; None where only the stage can know."""

    @property
    def nearby(self) -> "Runtime":
        """What checks results on this machine, where they were made on another."""

    def image(self, name: str, device: str, build: bool) -> ImageRecord:
        """The image by digest, or the lock; made ready first where `build` is asked."""

    def seen_path(self, role: str, path: Path) -> str:
        """Where the stage finds the input of that role."""

    def argv(self, launch: Launch) -> list[str]:
        """The whole command, as it is printed and run."""

    def run(self, launch: Launch) -> int:
        """Run it to its end and give the exit code; signals are handed to the stage."""


@runtime_checkable
class Explained(Protocol):
    """A runtime that asks somebody else for a machine."""

    def rows(self, launch: Launch) -> dict[str, str]:
        """What it would ask for, for DRY_RUN=1."""


@runtime_checkable
class ShowsGpus(Protocol):
    """A runtime on a machine whose GPUs others use too: it shows a stage those of its launch."""

    @property
    def shows_gpus(self) -> bool:
        """Always."""


@runtime_checkable
class Confined(Protocol):
    """A runtime inside one image, which starts no stage of another."""

    def is_around(self, image: str) -> bool:
        """Whether this process is in that image."""


def quiet_environment(launch: Launch) -> dict[str, str]:
    """Variables that every stage gets, whatever starts it."""
    offline = {} if launch.network else {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    columns = str(shutil.get_terminal_size().columns)
    if sys.stderr.isatty():
        terminal = {"ESPALIER_TERMINAL": "1", "COLUMNS": columns}
    else:
        terminal = {"TQDM_DISABLE": "1"}  # plain lines instead of other packages' bars
    online = {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"} if launch.network else {}
    return {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **offline,
        **online,
        **terminal,
        **({THREADS: str(launch.threads)} if launch.threads else {}),
        **launch.processes.environment,
        **launch.environment,
    }


def run_to_end(
    argv: Sequence[str],
    environment: Mapping[str, str] | None = None,
    stop: Callable[["subprocess.Popen[bytes]", int], None] = subprocess.Popen.send_signal,
) -> int:
    """Run a child, hand it SIGINT and SIGTERM, and give its exit code (128 + n when killed).

    `stop(child, signal)` says how they are handed over.

    The child has a session of its own, so that Ctrl-C reaches it once, from here. What it prints
    on stdout goes to stderr: the last line on stdout is the published path alone.
    """
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def hand_over(number: int, frame: FrameType | None) -> None:
        early.append(number)
        for child in children:
            stop(child, number)

    with handled((signal.SIGINT, signal.SIGTERM), hand_over):
        child = subprocess.Popen(
            argv,
            env=dict(environment) if environment is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            cwd=ROOT,
            start_new_session=True,
        )
        children.append(child)
        for number in early:
            stop(child, number)
        code = child.wait()
    return code if code >= 0 else 128 - code
