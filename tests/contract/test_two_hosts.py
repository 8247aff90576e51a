"""Two machines that make one artifact on one store: one works, the other waits and finds it done.

They are namespaces of this machine: each has a host name, processes and process numbers of its own.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from espalier.contract.manifest import MANIFEST
from espalier.contract.paths import ROOT
from tests.contract.command import command, quiet_environment
from tests.contract.waiting import wait_until

HOST = (
    *("unshare", "--user", "--map-root-user", "--uts", "--pid", "--fork", "--kill-child"),
    *("--mount-proc", "sh", "-c", 'hostname "$0" && exec "$@"'),
)
NOLOCK = """
import errno, fcntl
def flock(*given):
    raise OSError(errno.{number}, "no locks here")
fcntl.flock = flock
"""
SHORT = """
import espalier.contract.lock as lock
lock.LEASE_SECONDS, lock.RENEWED_SECONDS = 6.0, 0.5
"""


def lacking() -> str:
    if not shutil.which("unshare"):
        return "there is no unshare"
    done = subprocess.run([*HOST, "one", "true"], check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"no other host can be played here: {done.stderr}"


pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or "there are others")


class Hosts:
    """Commands on other hosts, which end with the test."""

    def __init__(self, folder: Path) -> None:
        self.store, self._folder = folder / "store", folder
        self._started: list[subprocess.Popen[str]] = []
        self.shim = ""

    def make(self, host: str) -> subprocess.Popen[str]:
        """`make corpus` there; what it says is in a file."""
        (self._folder / "sitecustomize.py").write_text(self.shim)
        path = f"{self._folder}{os.pathsep}{ROOT}"
        with self._said(host).open("w") as said:
            process = subprocess.Popen(
                [*HOST, host, *command(self.store, "corpus", cold=True)],
                env={**quiet_environment(), "PYTHONPATH": path},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        self._started.append(process)
        return process

    def said(self, host: str) -> str:
        return self._said(host).read_text()

    def _said(self, host: str) -> Path:
        return self._folder / f"said-{host}"

    def held(self) -> int:
        """The stage's process, stopped as soon as there is one."""
        found: list[int] = []
        wait_until(lambda: bool(found.extend(stages(self.store)) or found), 120)
        os.kill(found[0], signal.SIGSTOP)
        return found[0]

    def end(self) -> None:
        for process in self._started:
            process.kill()  # and with it all that is in its namespace
            process.wait()


def stages(store: Path) -> Iterator[int]:
    """Processes that run a stage in `store`, on any of the hosts."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"espalier.run_stage" in words and any(str(store).encode() in word for word in words):
            yield int(entry.parent.name)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path)
    yield hosts
    hosts.end()


@pytest.mark.parametrize(
    "shim",
    ["", NOLOCK.format(number="ENOLCK"), NOLOCK.format(number="ENOSYS")],
    ids=["locks", "none", "nosys"],
)
def test_one_works_and_the_other_waits(hosts: Hosts, shim: str) -> None:
    hosts.shim = shim
    first = hosts.make("first")
    stage = hosts.held()
    second = hosts.make("second")
    wait_until(lambda: "waiting for it" in hosts.said("second"), 120)
    assert "data__pydoc is being made by process " in hosts.said("second")
    assert " on first since " in hosts.said("second")
    assert list(stages(hosts.store)) == [stage]
    os.kill(stage, signal.SIGCONT)
    target = hosts.store / "data" / "pydoc"
    for process, host in ((first, "first"), (second, "second")):
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, hosts.said(host)
        assert out == f"{target}\n"
    assert (target / MANIFEST).is_file()
    assert not list(hosts.store.glob("data/*.partial-*"))


def test_a_host_that_is_gone_is_followed_after_its_lease(hosts: Hosts) -> None:
    hosts.shim = NOLOCK.format(number="ENOSYS") + SHORT
    first = hosts.make("first")
    hosts.held()
    second = hosts.make("second")
    wait_until(lambda: "waiting for it" in hosts.said("second"), 120)
    first.kill()
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 0, hosts.said("second")
    assert out == f"{hosts.store}/data/pydoc\n"
