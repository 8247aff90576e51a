"""Faults that must cost nothing: services that hang or are away, launchers that die or are two.

The server's fixture asserts after each test that no queued resource is left.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from espalier.errors import EnvironmentFailure, InputError, Interrupted
from espalier.host.runtimes.tpu_vm.client import ENDPOINT, TpuApi
from espalier.host.runtimes.tpu_vm.filesystem import Directory
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.launcher import Launcher
from espalier.host.runtimes.tpu_vm.lease import Displaced, Holder, Lease
from espalier.host.runtimes.tpu_vm.options import Wanted
from espalier.host.runtimes.tpu_vm.patience import Patience
from espalier.host.runtimes.tpu_vm.request import creation, tpu_name
from espalier.host.runtimes.tpu_vm.stops import SERVICE, Stop, stop_event
from espalier.host.runtimes.tpu_vm.tpu_folder import TpuFolder
from tests.contract.waiting import wait_until
from tests.tpu.conftest import OWNER, QUICK
from tests.tpu.fake_server import FakeServer
from tests.tpu.silent import silence
from tests.tpu.workers import Worker, Workers, phase, succeeds

Make = Callable[..., Launcher]
FIRST = tpu_name("run-1", OWNER, 1)


def saves(worker: Worker) -> int | None:
    worker.goes_on(30)
    return 75 if worker.asked_to_stop else None


def never_saves(worker: Worker) -> int | None:
    while not worker.gone.wait(0.02):
        worker.beat("running")
    return None


def test_an_api_that_accepts_and_never_answers(
    wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silence() as port:
        monkeypatch.setenv(ENDPOINT, f"127.0.0.1:{port}")
        api = TpuApi(wanted.place, replace(QUICK, call=0.2, retry=1))
        with pytest.raises(EnvironmentFailure, match="the TPU API does not answer"):
            api.state("any")


def test_an_api_that_hangs_does_not_keep_whoever_asks_to_stop(
    wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silence() as port:
        monkeypatch.setenv(ENDPOINT, f"127.0.0.1:{port}")
        stop = Stop()
        api = TpuApi(wanted.place, replace(QUICK, call=0.5, retry=600), stop)
        threading.Timer(0.3, stop.within, (2,)).start()
        with pytest.raises(EnvironmentFailure, match="the TPU API does not answer"):
            api.state("any")  # and not for the ten minutes that it may be repeated


def test_an_operation_that_never_ends(server: FakeServer, launcher: Make) -> None:
    made = launcher(timings=replace(QUICK, delete=0.5))
    made.api = TpuApi(made.wanted.place, replace(QUICK, retry=0.5))
    look = server.operation

    def undone(request: Any, context: Any) -> Any:
        operation = look(request, context)
        operation.done = False
        return operation

    server.looks = undone
    with pytest.raises(EnvironmentFailure, match="does not answer: it has not carried this out"):
        made.follow()
    server.slices.clear()


@pytest.mark.parametrize("task", ["read", "write"])
def test_a_bucket_that_accepts_and_never_answers(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gcsfs")
    with silence() as port:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("FSSPEC_GCS_TOKEN", "anon")
        monkeypatch.setenv("FSSPEC_GCS_SKIP_INSTANCE_CACHE", "1")
        folder = Folder("gs://bucket/prefix", Patience(call=0.5))
        with pytest.raises(EnvironmentFailure, match="it has not answered for"):
            folder.read("x") if task == "read" else folder.write("x", "")


def test_a_mount_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an NFS server that is gone: no call of the system's comes back."""
    back = threading.Event()
    monkeypatch.setattr(Directory, "read", lambda *given: back.wait(60))
    with pytest.raises(EnvironmentFailure, match="it has not answered for"):
        Folder(str(tmp_path), Patience(call=0.2)).read("x")
    back.set()


def test_a_service_manager_s_stop_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd kills after 90 s whatever has not ended."""
    assert SERVICE < 90
    with stop_event() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
        assert stop.at_most(10_000) <= SERVICE
        assert stop.at_most(10_000, reserve=30) <= SERVICE - 30
    with stop_event() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
        assert stop.at_most(10_000) == 10_000
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.at_most(10_000) <= SERVICE


def test_workers_that_do_not_save_do_not_keep_the_slice_beyond_that(
    server: FakeServer, workers: Workers, launcher: Make
) -> None:
    workers.works = [never_saves]
    stop = Stop()
    said: list[str] = []
    threading.Timer(0.5, stop.within, (3,)).start()
    patient = replace(QUICK, grace=600, call=1)
    with pytest.raises(Interrupted, match="0 of 4 workers have saved"):
        launcher(stop=stop, timings=patient, said=said).follow()
    assert server.names == []
    assert said[-1] == f"Deleted {FIRST}."


def test_a_stop_while_the_bucket_is_away(
    server: FakeServer, workers: Workers, launcher: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.works = [never_saves]
    stop = Stop()
    away(monkeypatch, server, forever=True)
    threading.Timer(1.5, stop.set).start()
    with pytest.raises(Interrupted, match=r"whether the workers have saved is not known"):
        launcher(stop=stop, timings=replace(QUICK, outage=600)).follow()
    assert server.names == []


def test_what_may_still_cost_is_said_at_the_end(
    server: FakeServer, workers: Workers, launcher: Make, wanted: Wanted
) -> None:
    """An API that does not delete, and a user who does not wait for it."""
    server.deletion = lambda request, context: context.abort(grpc.StatusCode.INTERNAL, "broken")
    said: list[str] = []
    with pytest.raises(EnvironmentFailure, match="may still be there and cost"):
        launcher(said=said, timings=replace(QUICK, retry=1)).follow()
    place = f"PROJECT=project ZONE=us-west4-a BUCKET={wanted.place.bucket.url}"
    assert said[-1] == (
        f"{FIRST} may still be there and cost up to 19.20 USD an hour; "
        f"make tpu-down NAME={FIRST} {place} ends it."
    )
    server.slices.clear()


def away(
    monkeypatch: pytest.MonkeyPatch, server: FakeServer, seconds: float = 0, forever: bool = False
) -> list[int]:
    """Have each of the launcher's calls on the bucket fail, from the time that a TPU is up."""
    failed: list[int] = []
    began: list[float] = []
    up = server.active

    def active(each: Any) -> None:
        up(each)
        began.append(time.monotonic())

    server.active = active
    real = Folder._at

    def at(folder: Folder) -> Any:
        if began and (forever or time.monotonic() - began[0] < seconds):
            failed.append(1)
            raise OSError("503 Service Unavailable")
        return real(folder)

    monkeypatch.setattr(Folder, "_at", at)
    return failed


def test_a_bucket_that_is_away_costs_no_healthy_slice(
    server: FakeServer,
    workers: Workers,
    launcher: Make,
    bucket: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For longer than a worker may be silent; nothing else is asked for, and nothing is lost."""
    timings = replace(QUICK, silence=1.0, outage=600)
    failed = away(monkeypatch, server, seconds=4)
    over = threading.Event()

    def quiet(worker: Worker) -> int | None:
        """Cannot report either, and takes a moment to do so again."""
        if worker.gone.wait(4.3):
            return None
        over.set()
        return succeeds(worker)

    workers.works = [quiet]
    said: list[str] = []
    assert launcher(said=said, timings=timings).follow() == 0
    assert over.is_set()
    assert len(failed) > 3
    assert server.created == [FIRST]
    assert any("Waiting, since" in text and "503" in text for text in said)
    assert phase(bucket) == "done"


def test_a_bucket_that_stays_away_does_not_keep_a_slice_for_ever(
    server: FakeServer, workers: Workers, launcher: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.works = [never_saves]
    away(monkeypatch, server, forever=True)
    with pytest.raises(EnvironmentFailure, match="503 Service Unavailable"):
        launcher(timings=replace(QUICK, outage=1)).follow()
    assert server.names == []


def holder(**others: Any) -> Holder:
    mine = {"token": "other", "host": "elsewhere", "boot": "x", "pid": 1}
    return Holder.model_validate({**mine, **others})


def test_one_launcher_at_a_time(server: FakeServer, launcher: Make) -> None:
    made = launcher()
    Lease(made.run.folder, 2, holder()).take()
    with pytest.raises(EnvironmentFailure, match=r"a command on elsewhere, seen \d+ s ago"):
        made.follow()
    assert server.calls == []


def test_a_launcher_that_died_elsewhere_is_replaced_after_its_lease(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    made = launcher()
    Lease(made.run.folder, 2, holder()).take()
    at = time.time() - 3
    os.utime(bucket / "runs/run-1/launcher.json", (at, at))
    assert made.follow() == 0


def test_a_launcher_of_this_machine_is_waited_for_while_it_lives(
    server: FakeServer, launcher: Make
) -> None:
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        here = Lease(launcher().run.folder, 2).holder
        other = here.model_copy(update={"token": "other", "pid": sleeping.pid})
        Lease(launcher().run.folder, 2, other).take()
        with pytest.raises(EnvironmentFailure, match=f"process {sleeping.pid} of this machine"):
            launcher().follow()
    finally:
        sleeping.kill()
        sleeping.wait()
    Lease(launcher().run.folder, 2).take()


def test_two_at_once_are_one(tmp_path: Path) -> None:
    """Of all that begin in the same moment exactly one has the run."""
    leases = [
        Lease(Folder(str(tmp_path)), 60, holder(token=str(number), pid=number))
        for number in range(8)
    ]
    ready, taken = threading.Barrier(8), []

    def take(lease: Lease) -> None:
        ready.wait()
        try:
            lease.take()
        except EnvironmentFailure:
            return
        taken.append(lease)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    taken[0].renew()


def test_two_runs_that_take_one_held_tpu_at_once(wanted: Wanted) -> None:
    """Both have found it free."""
    tpu = TpuFolder(wanted.place.bucket, "mine")
    tpu.announce(wanted, OWNER, kept=True)
    record, version = tpu.version
    assert record
    assert tpu.claim(record, version, "runs/one")
    assert not tpu.claim(record, version, "runs/two")
    assert tpu.record
    assert tpu.record.folder == "runs/one"


def test_two_that_hold_one_name_at_once(wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have found it free, and only one asks for it."""
    one, two = (TpuFolder(wanted.place.bucket, "mine") for _ in range(2))
    before = two.version
    one.announce(wanted, "one", kept=True)
    monkeypatch.setattr(TpuFolder, "version", property(lambda self: before))
    with pytest.raises(InputError, match="is asked for by another command just now"):
        two.announce(wanted, "two", kept=True)


def test_a_launcher_that_was_replaced_leaves_the_slice_to_the_other(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    """As where its machine slept: it comes back, and must not delete what the other follows."""
    seen = threading.Event()

    def works(worker: Worker) -> int | None:
        worker.beat("running")
        seen.wait(20)
        return saves(worker)

    workers.works = [works]
    made = launcher()

    def replaces() -> None:
        wait_until(lambda: bool(server._up), 20)
        (bucket / "runs/run-1/launcher.json").write_text(holder().model_dump_json())
        seen.set()

    thread = threading.Thread(target=replaces)
    thread.start()
    said: list[str] = []
    made.say = said.append
    with pytest.raises(Displaced, match="is followed by another launcher by now"):
        made.follow()
    thread.join()
    assert server.names == [FIRST]
    assert "delete" not in server.calls
    made.api.delete(FIRST, OWNER)


def test_the_same_name_of_another_owner_is_not_taken(
    server: FakeServer, launcher: Make, wanted: Wanted
) -> None:
    """Two users of one project, whose runs have come to one name."""
    theirs = launcher()
    theirs.wanted = replace(
        wanted, place=replace(wanted.place, bucket=Folder(f"{wanted.place.bucket.url}-theirs"))
    )
    record = TpuFolder(theirs.wanted.place.bucket, FIRST).announce(
        theirs.wanted, "theirs", kept=False
    )
    theirs.api.create(creation(theirs.wanted, "#!", record, 60))
    with pytest.raises((InputError, EnvironmentFailure), match="not of this BUCKET and owner"):
        launcher().follow()
    assert server.names == [FIRST]
    assert "delete" not in server.calls
    server.slices.clear()


def test_a_hung_bucket_does_not_outlast_a_service_manager(
    server: FakeServer, workers: Workers, launcher: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts, and never answers; the slice is deleted all the same, and in time."""
    workers.works = [never_saves]
    stop, back = Stop(), threading.Event()
    real, up = Folder._at, server.active
    hung: list[float] = []

    def active(each: Any) -> None:
        up(each)
        hung.append(time.monotonic())

    def at(folder: Folder) -> Any:
        if hung:
            back.wait(120)
        return real(folder)

    server.active = active
    monkeypatch.setattr(Folder, "_at", at)
    asked: list[float] = []

    def ask() -> None:
        asked.append(time.monotonic())
        stop.within(6)

    threading.Timer(1.5, ask).start()
    with pytest.raises(Interrupted, match="is not known"):
        launcher(stop=stop, timings=replace(QUICK, outage=600, call=2, grace=600)).follow()
    took = time.monotonic() - asked[0]
    back.set()
    assert server.names == []
    assert took < 60  # of the minutes that each of its calls may take otherwise
