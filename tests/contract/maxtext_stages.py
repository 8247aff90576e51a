"""Stages of image `maxtext`, run from its own virtual environment beside the tests' packages."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from espalier.errors import EnvironmentFailure
from espalier.processes import HEAD, NODE, NODES
from espalier.runtimes.base import Launch
from espalier.runtimes.local import ENVIRONMENTS, LocalRuntime
from espalier.venv import ensure_venv
from tests.contract.command import espalier
from tests.unit.tiny_checkpoints import load_all

MEETING = Path(tempfile.gettempdir()) / "espalier-tests-meeting.lock"
"""All machines are this one, and two runs at once would meet at one port."""


def maxtext() -> None:
    """Skip where the image's packages cannot be had: a Python 3.13 is needed."""
    try:
        ensure_venv("maxtext", "cpu", ENVIRONMENTS)
    except EnvironmentFailure as error:
        pytest.skip(str(error))


def made(store: Path, *words: str) -> Path:
    """What a command publishes."""
    done = espalier(store, *words, "RUNTIME=local")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return Path(done.stdout.splitlines()[-1])


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint."""
    found: dict[str, torch.Tensor] = load_all(directory)
    return found


@dataclass(frozen=True)
class Altered(LocalRuntime):
    """Runs the stage of image maxtext after a line of Python, to plant an error."""

    before: str = ""

    def argv(self, launch: Launch) -> list[str]:
        if launch.image != "maxtext":
            return super().argv(launch)
        program = f"{self.before}\nfrom espalier.run_stage import main\nmain()"
        return [self.python(launch), "-c", program, str(launch.output.resolve())]


@dataclass(frozen=True)
class Machines(LocalRuntime):
    """Runs the stage as several machines would, which all see one disk."""

    count: int = 2

    @property
    def nearby(self) -> LocalRuntime:
        return LocalRuntime()

    def run(self, launch: Launch) -> int:
        def start(number: int) -> "subprocess.Popen[Any]":
            own = {NODES: str(self.count), NODE: str(number), HEAD: "localhost"}
            return subprocess.Popen(
                self.argv(launch), env=self.environment(launch) | own, stdout=sys.stderr
            )

        with FileLock(MEETING):
            return max(process.wait(240) for process in [start(n) for n in range(self.count)])
