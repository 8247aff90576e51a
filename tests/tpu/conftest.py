"""A server, a bucket and a launcher in a hurry."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from espalier.hardware.tpus import tpu_named
from espalier.host.images import load_image
from espalier.host.runtimes.tpu_vm import runtime as tpu_vm
from espalier.host.runtimes.tpu_vm.client import ENDPOINT, TpuApi
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.launcher import Launcher
from espalier.host.runtimes.tpu_vm.lease import Lease
from espalier.host.runtimes.tpu_vm.options import Location, Wanted
from espalier.host.runtimes.tpu_vm.run_folder import RunFolder
from espalier.host.runtimes.tpu_vm.startup import WorkOrder
from espalier.host.runtimes.tpu_vm.stops import Stop
from espalier.host.runtimes.tpu_vm.timings import Timings
from tests.tpu.fake_server import FakeServer, serving
from tests.tpu.hosts import Hosts
from tests.tpu.workers import Workers

OWNER = "0a1b2c3d"
"""Of the tests' run: its TPUs' names are known then."""
QUICK = Timings(
    poll=0.03,
    poll_most=0.06,
    call=2,
    retry=5,
    outage=2,
    silence=2.5,
    straggle=1.5,
    grace=4,
    settle=0.5,
    delete=5,
    heartbeat=0.2,
    lease=2,
    abandoned=60,
    barrier=20,
    attempt=0,
)
IMAGE = f"europe-docker.pkg.dev/p/r/espalier-maxtext@sha256:{'a' * 64}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """Nothing may be left on it, whatever a test has done."""
    with serving(FakeServer()) as server:
        monkeypatch.setenv(ENDPOINT, f"127.0.0.1:{server.port}")
        yield server
        server.failures.clear()
        assert server.names == []


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def wanted(bucket: Path) -> Wanted:
    place = Location("project", "us-west4-a", Folder(str(bucket)))
    return Wanted(tpu_named("v5litepod-16"), place, spot=True)


@pytest.fixture
def workers(server: FakeServer, bucket: Path) -> Iterator[Workers]:
    """Four of them, on every slice that comes up."""
    workers = Workers(bucket, 4)
    server.active, server.deleted = workers.up, workers.down
    yield workers
    workers.join()


@pytest.fixture
def launcher(wanted: Wanted, bucket: Path) -> Callable[..., Launcher]:
    """A new one for the same run; what it says goes to its `said`."""

    def made(**others: Any) -> Launcher:
        run = RunFolder(Folder(f"{bucket}/runs/run-1"))
        said: list[str] = others.pop("said", [])
        given = {"deadline": 5.0, "attempts": 20, "keep": False, "held": "", "timings": QUICK}
        order = WorkOrder(run.folder.url, IMAGE, {}, {})
        arguments = {**given, **others}
        api = TpuApi(wanted.place, QUICK, arguments.setdefault("stop", Stop()))
        arguments |= {"lease": Lease(run.folder, QUICK.lease), "owner": OWNER}
        return Launcher(api, wanted, "run-1", run, order, say=said.append, **arguments)

    return made


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image for TPUs has a stage that is cheap: one for CPUs stands in."""
    stand_in = lambda name: SimpleNamespace(  # noqa: E731
        lock_hash=lambda device: load_image(name).lock_hash("cpu")
    )
    monkeypatch.setattr(tpu_vm, "load_image", stand_in)


@pytest.fixture
def hosts(server: FakeServer, tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path / "hosts", 1)
    server.active, server.deleted = hosts.up, hosts.down
    yield hosts
    hosts.off()
