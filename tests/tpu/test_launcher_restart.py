"""A launcher that dies or loses what it works with, and the start after it.

The server's fixture asserts after each test that no queued resource is left.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from espalier.contract.paths import ROOT
from espalier.errors import EnvironmentFailure, InputError, Interrupted
from espalier.hardware.tpus import tpu_named
from espalier.host.runtimes.tpu_vm.fleet import Fleet
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.launcher import Launcher
from espalier.host.runtimes.tpu_vm.options import Wanted
from espalier.host.runtimes.tpu_vm.request import tpu_name, valid_name
from espalier.host.runtimes.tpu_vm.run_folder import RunFolder
from tests.contract.waiting import wait_until
from tests.tpu.conftest import OWNER
from tests.tpu.fake_server import COMES_UP, FakeServer
from tests.tpu.workers import Worker, Workers, half, phase, succeeds

Make = Callable[..., Launcher]
FIRST, SECOND = tpu_name("run-1", OWNER, 1), tpu_name("run-1", OWNER, 2)


def crashed(bucket: Path, server: FakeServer, when: Callable[[], bool]) -> None:
    """A launcher in a process of its own, killed as soon as `when` holds."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.tpu.launch", str(bucket)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        wait_until(lambda: when() or child.poll() is not None, 30)
        assert child.poll() is None
        wait_until(lambda: halted(child, bucket), 30)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


def halted(child: "subprocess.Popen[bytes]", bucket: Path) -> bool:
    """Whether it stands still between two writes: of an object in a bucket there is no half."""
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if RunFolder(Folder(f"{bucket}/runs/run-1")).record:
        return True
    child.send_signal(signal.SIGCONT)
    return False


@pytest.mark.parametrize("remembered", [True, False])
def test_a_crash_and_a_second_start(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path, remembered: bool
) -> None:
    """Whether the API still knows the request's id, or says that it exists already."""
    go = threading.Event()

    def long(worker: Worker) -> int | None:
        while not go.is_set():
            if not worker.goes_on(0.05):
                return None
        return succeeds(worker)

    workers.works = [long]
    crashed(bucket, server, (bucket / "runs/run-1/workers/3.json").exists)
    assert server.names == [FIRST]  # it works on meanwhile
    assert phase(bucket) == "following"
    if not remembered:
        server.forget_requests()
    threading.Timer(0.5, go.set).start()
    said: list[str] = []
    assert launcher(said=said).follow() == 0
    assert f"Going on with {FIRST}, which an earlier start has left." in said
    assert server.created == [FIRST]  # and no second one


def test_a_crash_before_the_run_ended_by_itself(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    crashed(bucket, server, lambda: bool(server._up))
    wait_until(lambda: len(list(bucket.glob("runs/run-1/exits/1/[0-3].json"))) == 4)
    said: list[str] = []
    assert launcher(said=said).follow() == 0
    assert server.created == [FIRST]
    assert phase(bucket) == "done"


def test_a_crash_and_a_preemption_before_the_second_start(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    workers.works = [half, succeeds]
    crashed(bucket, server, lambda: bool(server._up))
    server.set_state(FIRST, "SUSPENDED")
    assert launcher().follow() == 0
    assert server.created == [FIRST, SECOND]


def test_a_crash_and_somebody_deleted_it(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    workers.works = [half, succeeds]
    crashed(bucket, server, lambda: bool(server._up))
    launcher().api.delete(FIRST, OWNER)
    assert launcher().follow() == 0
    assert server.created == [FIRST, SECOND]


def test_another_type_at_the_second_start(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    workers.works = [half, succeeds]
    crashed(bucket, server, lambda: bool(server._up))
    other = launcher()
    other.wanted = replace(other.wanted, tpu=tpu_named("v5p-32"))
    assert other.follow() == 0
    assert server.created == [FIRST, SECOND]


def test_taken_down_while_it_runs(
    server: FakeServer, workers: Workers, launcher: Make, wanted: Wanted
) -> None:
    working = threading.Event()

    def saves(worker: Worker) -> int | None:
        working.set()
        worker.goes_on(20)
        return 75 if worker.asked_to_stop else None

    def down() -> None:
        working.wait(20)
        fleet.down(FIRST)

    workers.works = [saves]
    fleet = Fleet(wanted.place, launcher().api)
    taking = threading.Thread(target=down)
    taking.start()
    with pytest.raises(Interrupted, match=r"tpu-down|workers have saved"):
        launcher().follow()
    taking.join()
    assert server.created == [FIRST]


def test_the_bucket_is_lost_while_it_runs(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    """What cannot be written down is deleted all the same."""

    def spoils(worker: Worker) -> int | None:
        worker.goes_on(0.2)
        if worker.number == 0:
            shutil.rmtree(bucket, ignore_errors=True)
            bucket.write_text("no folder any more")
        return None

    workers.works = [spoils]
    with pytest.raises(EnvironmentFailure, match="cannot be read or written"):
        launcher().follow()
    assert server.names == []


def test_a_tpu_that_cannot_be_deleted_is_named(
    server: FakeServer, workers: Workers, launcher: Make
) -> None:
    made = launcher()
    gone = threading.Event()
    delete = server.delete

    def broken(request: object, context: object) -> object:
        if not gone.is_set():
            context.abort(grpc.StatusCode.INTERNAL, "broken")  # type: ignore[attr-defined]
        return delete(request, context)

    server.deletion = broken
    with pytest.raises(EnvironmentFailure, match=f"may still be there.*tpu-down NAME={FIRST}"):
        made.follow()
    gone.set()
    assert launcher().api.delete(FIRST, OWNER)


def test_another_attempt_s_report_does_not_count(launcher: Make, bucket: Path) -> None:
    workers = bucket / "runs/run-1/workers"
    workers.mkdir(parents=True)
    for number, attempt in enumerate((1, 2)):
        told = {"state": "ready", "time": "2026-01-01T00:00:00Z", "attempt": attempt}
        (workers / f"{number}.json").write_text(json.dumps(told))
    assert list(launcher().run.heartbeats(2)) == [1]


def test_what_is_no_record_is_no_worker(launcher: Make, bucket: Path) -> None:
    run, exits = launcher().run, bucket / "runs/run-1/exits/1"
    exits.mkdir(parents=True)
    for name, text in (("0.json", '{"code": 0}'), (".part-x", '{"code": 0}'), ("1.json", '{"co')):
        (exits / name).write_text(text)
    assert list(run.exits(1)) == [0]


def test_names_that_the_api_takes() -> None:
    for run in ("a", "Llama-3.1_8B/wanda" * 9, "--", "ümlaut"):
        assert valid_name(tpu_name(run, OWNER, 1234))
    assert not valid_name("1a")
    assert COMES_UP[-1] == "ACTIVE"


def test_another_zone_at_the_second_start(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    """The slice that the first start has left is not forgotten."""
    workers.works = [half]
    crashed(bucket, server, lambda: bool(server._up))
    elsewhere = launcher()
    place = replace(elsewhere.wanted.place, zone="us-east1-c")
    elsewhere.wanted = replace(elsewhere.wanted, place=place)
    with pytest.raises(InputError, match=f"has {FIRST} in .*us-west4-a; give PROJECT=project and"):
        elsewhere.follow()
    assert server.names == [FIRST]
    Fleet(launcher().wanted.place, launcher().api).down(FIRST)


def test_a_tpu_that_could_not_be_deleted_is_deleted_at_the_next_start(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    def broken(request: object, context: object) -> None:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "broken")  # type: ignore[attr-defined]

    server.deletion = broken
    workers.works = [lambda worker: 2, succeeds]
    with pytest.raises(EnvironmentFailure, match="may still be there"):
        launcher().follow()
    server.deletion = None
    assert launcher().follow() == 0
    assert server.created == [FIRST, SECOND]
    assert phase(bucket) == "done"
