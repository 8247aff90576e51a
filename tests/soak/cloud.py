"""A fake cloud for the soak: an API, hosts that run the start-up script, and a bucket a draw."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from espalier.host.runtimes.tpu_vm.client import ENDPOINT
from tests.soak.promises import Broken
from tests.tpu.fake_server import FakeServer, serving
from tests.tpu.hosts import Host, Hosts


@dataclass
class Cloud:
    """What draws share of it; each looks at slices of its own name alone."""

    server: FakeServer
    hosts: Hosts
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """By which commands find it, past the proxy that others have."""
        away = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")
        return {ENDPOINT: f"127.0.0.1:{self.server.port}", **away}

    def bucket(self, name: str) -> Path:
        """A draw's own."""
        return self.folder / "buckets" / name

    def slices(self, name: str) -> list[str]:
        """A draw's that are there."""
        return [each for each in self.server.names if name in each]

    def workers(self, name: str) -> list[Host]:
        """Of all slices that a draw has had."""
        return [host for hosts in self.hosts.slices for host in hosts if name in str(host.folder)]

    def works(self, name: str) -> bool:
        """Whether a stage runs on a slice of the draw's."""
        return any((host.stub / "pid").exists() for host in self.workers(name))

    def preempt(self, name: str) -> None:
        """Take the draw's slices away, as a cloud does with spot ones."""
        for each in self.slices(name):
            self.server.set_state(each, "SUSPENDED")
        for host in self.workers(name):
            host.off()

    def age(self, name: str, hours: float) -> None:
        """Have the bucket have been told everything so long ago."""
        at = time.time() - hours * 3600
        for path in self.bucket(name).rglob("*"):
            os.utime(path, (at, at))

    def require_empty(self) -> None:
        """No slice is left.

        Raises:
            Broken: one is.
        """
        if names := self.server.names:
            raise Broken(f"the cloud still holds {', '.join(names)}")


@contextmanager
def cloud_in(folder: Path) -> Iterator[Cloud]:
    """One for as long as the block lasts."""
    hosts = Hosts(folder / "hosts", 1)
    with serving(FakeServer(active=hosts.up, deleted=hosts.down)) as server:
        yield Cloud(server, hosts, folder)
        hosts.off()
