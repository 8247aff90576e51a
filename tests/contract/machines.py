"""Runs a stage as several machines would that see one disk."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from espalier.contract.processes import HEAD, NODE, NODES
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.local import LocalRuntime
from tests.warm.interpreters import warmed

MEETING = Path(tempfile.gettempdir()) / "espalier-tests-meeting.lock"
"""All machines are this one, and two runs at once would meet at one port."""
PATIENCE = 800
"""Seconds for which machines may run, however busy this one is."""


@dataclass(frozen=True)
class Machines(LocalRuntime):
    """Runs the stage as several machines would, which all see one disk."""

    count: int = 2
    head: str = "localhost"

    def run(self, launch: Launch) -> int:
        def start(number: int) -> "subprocess.Popen[Any]":
            own = {NODES: str(self.count), NODE: str(number), HEAD: self.head}
            return subprocess.Popen(
                warmed(self.argv(launch)), env=self.environment(launch) | own, stdout=sys.stderr
            )

        with FileLock(MEETING):
            return max(process.wait(PATIENCE) for process in [start(n) for n in range(self.count)])
