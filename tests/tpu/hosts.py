"""The hosts of a slice: each runs the start-up script for real, with the stubs on its PATH."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from espalier.contract.paths import ROOT
from tests.tpu.fake_server import Slice

STUBS = Path(__file__).with_name("stubs")


@dataclass
class Host:
    """One worker's machine; its disk and its docker outlive a boot.

    Attributes:
        folder: holds its disk (`local`) and what the stubs are told and have been asked (`stub`).
    """

    folder: Path
    number: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stub.mkdir(parents=True, exist_ok=True)

    @property
    def stub(self) -> Path:
        return self.folder / "stub"

    @property
    def calls(self) -> list[str]:
        path = self.stub / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def containers(self) -> list[str]:
        """The commands by which they were started."""
        return [call for call in self.calls if call.startswith("docker run")]

    def runs(self, script: str) -> None:
        """Have its containers run this instead of their own command; $1 is its /out."""
        (self.stub / "command").write_text(script)

    def boot(self, script: str, **variables: str) -> None:
        path = self.folder / "startup.sh"
        path.write_text(script)
        environment = {
            "PATH": f"{STUBS}:{os.environ['PATH']}",
            "ESPALIER_LOCAL": str(self.folder / "local"),
            "STUB": str(self.stub),
            "STUB_WORKER": str(self.number),
            "STUB_PYTHON": sys.executable,
            "STUB_ROOT": str(ROOT),
            "ESPALIER_THREADS": "1",
            **variables,
        }
        log = (self.folder / "journal").open("ab")
        words = ["bash", str(path)]
        self.processes.append(
            subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        )

    def off(self) -> None:
        """Without warning, as a host is taken away."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()


def hurried(script: str) -> str:
    """A command's own script with a test's patience."""
    return script.replace("HEARTBEAT=30\n", "HEARTBEAT=0.2\n").replace("PAUSE=10\n", "PAUSE=0\n")


@dataclass
class Hosts:
    """The hosts of every slice that a server brings up, new ones for each."""

    folder: Path
    count: int
    command: str = ""
    slices: list[list[Host]] = field(default_factory=list)
    _of: dict[str, list[Host]] = field(default_factory=dict)

    def up(self, each: Slice) -> None:
        """For the server's `active`."""
        place = self.folder / each.name
        hosts = [Host(place / str(number), number) for number in range(self.count)]
        self._of[each.name] = hosts
        self.slices.append(hosts)
        for host in hosts:
            if self.command:
                host.runs(self.command)
            host.boot(hurried(each.script))

    def down(self, each: Slice) -> None:
        """For the server's `deleted`."""
        for host in self._of.get(each.name, []):
            host.off()

    def off(self) -> None:
        for hosts in self.slices:
            for host in hosts:
                host.off()
