"""The commands as a user gives them."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from espalier.contract.paths import ROOT
from espalier.errors import InputError
from espalier.host.runtimes.choice import choose_runtime
from espalier.host.runtimes.tpu_vm.client import TpuApi
from espalier.host.runtimes.tpu_vm.fleet import Fleet
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.lease import Lease
from espalier.host.runtimes.tpu_vm.options import Wanted
from espalier.host.runtimes.tpu_vm.records import RunRecord, now
from espalier.host.runtimes.tpu_vm.request import BUCKET, bucket_label, creation
from espalier.host.runtimes.tpu_vm.request import OWNER as OWNER_LABEL
from espalier.host.runtimes.tpu_vm.run_folder import RunFolder
from espalier.host.runtimes.tpu_vm.runtime import TpuVmRuntime
from espalier.host.runtimes.tpu_vm.startup import WorkOrder
from espalier.host.runtimes.tpu_vm.tpu_folder import TpuFolder
from espalier.host.settings import read_settings
from tests.contract.command import command, espalier, quiet_environment, refused
from tests.contract.waiting import wait_until
from tests.tpu.asking import PLACE, words
from tests.tpu.conftest import IMAGE, QUICK
from tests.tpu.fake_server import STATES, FakeServer


def made(api: TpuApi, wanted: Wanted, name: str, phase: str = "") -> None:
    """A queued resource as a launcher leaves it, its run in that phase."""
    tpu = TpuFolder(wanted.place.bucket, name)
    announced = tpu.announce(wanted, f"owner-{name}", kept=False)
    if phase:
        run = RunFolder(wanted.place.bucket.below(f"runs/run-{name}"))
        tpu.give(WorkOrder(run.folder.url, IMAGE, {}, {}), 1)
        record = {"phase": phase, "attempt": 1, "tpu": name, "workers": 4, "seen": now()}
        run.keep(RunRecord.model_validate(record))
        Lease(run.folder, QUICK.lease).take()
        run.folder.write("logs/2.log", "step 5\n")
    api.create(creation(wanted, "#!/bin/sh", announced, 60))


def foreign(api: TpuApi, wanted: Wanted, name: str, **labels: str) -> None:
    """A queued resource that somebody else has made, with such labels."""
    record = TpuFolder(wanted.place.bucket, name).planned(wanted, "theirs", kept=False)
    request = creation(wanted, "#!/bin/sh", record, 60)
    request.queued_resource.tpu.node_spec[0].node.labels = labels
    api.create(request)


def test_status_logs_and_reaping(server: FakeServer, wanted: Wanted, tmp_path: Path) -> None:
    store, api = tmp_path / "store", TpuApi(wanted.place, QUICK)
    for name, phase in (
        ("live", "following"),
        ("over", "done"),
        ("dead", "following"),
        ("odd", ""),
    ):
        made(api, wanted, name, phase)
    foreign(api, wanted, "foreign", team="other")
    for name in ("live", "over", "odd", "foreign"):
        server.set_state(name, "ACTIVE")
    server.set_state("dead", "SUSPENDED")
    status = espalier(store, *words(tmp_path, "tpu-status"))
    assert status.returncode == 0, status.stderr
    lines = {line.split()[0]: line for line in status.stdout.splitlines()}
    assert "foreign" not in lines
    assert "runs run-live (its launcher was seen " in lines["live"]
    assert "at most 0." in lines["live"]
    assert "orphaned; make tpu-reap deletes it" in lines["over"]
    assert "SUSPENDED" in lines["dead"]
    logs = espalier(store, *words(tmp_path, "tpu-logs", "NAME=live", "WORKER=2"))
    assert logs.stdout == "step 5\n"
    refused(
        espalier(store, *words(tmp_path, "tpu-logs", "NAME=live")), 2, "worker 0 of NAME=live has"
    )
    reaped = espalier(store, *words(tmp_path, "tpu-reap"))
    assert reaped.stdout.splitlines()[-1] == "3 deleted"
    assert sorted(server.names) == ["foreign", "live"]
    all_of_it = espalier(store, *words(tmp_path, "tpu-reap", "FORCE=1"))
    assert all_of_it.stdout.splitlines()[0] == "deleted live (v5litepod-16, ACTIVE)"
    assert server.names == ["foreign"]
    refused(espalier(store, *words(tmp_path, "tpu-down", "NAME=live")), 2, "NAME=live is not in")
    server.slices.clear()


def test_a_tpu_that_is_taken_down_is_not_made_again(
    server: FakeServer, wanted: Wanted, tmp_path: Path
) -> None:
    made(TpuApi(wanted.place, QUICK), wanted, "live", "following")
    assert espalier(tmp_path, *words(tmp_path, "tpu-down", "NAME=live")).returncode == 0
    assert RunFolder(Folder(f"{tmp_path}/bucket/runs/run-live")).asked_to_stop(1)


def test_up_without_capacity(server: FakeServer, tmp_path: Path) -> None:
    server.plans = [("ACCEPTED", "WAITING_FOR_RESOURCES")]
    words_ = words(tmp_path, "tpu-up", "TPU=v6e-8", "TPU_DEADLINE=0.01")
    refused(espalier(tmp_path / "store", *words_), 3, "no capacity for espalier-held-v6e-8")


def test_without_credentials(tmp_path: Path) -> None:
    absent = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "absent.json")}
    done = espalier(tmp_path / "store", *words(tmp_path, "tpu-status"), environment=absent)
    refused(done, 3, "Google does not know who you are", "gcloud auth application-default login")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("tpu-up", "TPU=v5litepod-8", "NAME=Mine"), "NAME=Mine is not a valid TPU name"),
        (("tpu-up", "TPU=v5litepod-8", "SIZE=8"), "SIZE is not a parameter here (known: NAME)"),
        (("tpu-up", "TPU=v9-8"), "TPU=v9-8 is not known; choose one of v4-8"),
        (("tpu-up",), "TPU is needed for a TPU VM"),
        (("tpu-logs",), "NAME is needed"),
        (("tpu-logs", "NAME=mine", "WORKER=all"), "WORKER=all is not a worker number"),
        (("tpu-status", "NAME=mine"), "NAME is not a parameter here"),
    ],
)
def test_what_the_commands_refuse(tmp_path: Path, given: tuple[str, ...], says: str) -> None:
    refused(espalier(tmp_path / "store", *words(tmp_path, *given)), 2, says)


def test_the_command_line_knows_no_grpc() -> None:
    code = (
        "import sys, espalier.host.cli; sys.exit(any(m in sys.modules for m in ('grpc', 'fsspec')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_dry_run_calls_nothing(server: FakeServer, tmp_path: Path) -> None:
    up = espalier(tmp_path / "s", *words(tmp_path, "tpu-up", "TPU=v6e-8", "SPOT=1", "DRY_RUN=1"))
    assert up.returncode == 0, up.stderr
    assert '"spot": {}' in up.stdout
    assert "devices=(--privileged)" in up.stdout
    assert '"valid_until_duration": "3720s"' in up.stdout
    assert "TPU_SERVICE_ACCOUNT is not given" in up.stderr
    assert server.calls == []
    assert not (tmp_path / "bucket").exists()


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZONE", "us-west4-a")
    monkeypatch.setenv("KEEP_TPU", "1")  # for one command, never by habit: it costs
    found, _ = read_settings({"RUNTIME": "tpu-vm", "ACCEL": "cuda", "SPOT": "1"})
    assert (found.accel, found.zone, found.spot, found.keep_tpu) == (
        "tpu",
        "us-west4-a",
        True,
        False,
    )
    assert isinstance(choose_runtime(found), TpuVmRuntime)


BEAT = '{"state": "running", "time": "2001-01-01T00:00:00Z", "attempt": 1}'
"""Of a host whose clock is wrong: the bucket's own says when it came."""
DONE, FAILED = '{"code": 0}', '{"code": 2}'
SILENT = {"workers/0.json": (BEAT, 16)}
ENDINGS: dict[str, tuple[dict[str, tuple[str, int]], bool]] = {
    "all have ended": ({f"exits/1/{number}.json": (DONE, 0) for number in range(4)}, True),
    "one has failed": ({"exits/1/0.json": (FAILED, 0), "workers/1.json": (BEAT, 0)}, True),
    "all are silent": (SILENT, True),
    "the rest is silent": ({"exits/1/0.json": (DONE, 0), **SILENT}, True),
    "the result is written": ({"exits/1/1.json": (DONE, 0), "workers/0.json": (BEAT, 0)}, False),
    "at work": ({"workers/0.json": (BEAT, 0)}, False),
}


def aged(path: Path, minutes: float) -> None:
    """As if the bucket had been given it so long ago."""
    at = time.time() - minutes * 60
    os.utime(path, (at, at))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_that_is_over_and_lost_its_launcher_is_reaped(
    server: FakeServer, wanted: Wanted, tmp_path: Path, ending: str
) -> None:
    left, over = ENDINGS[ending]
    made(TpuApi(wanted.place, QUICK), wanted, "over", "following")
    server.set_state("over", "ACTIVE")
    run = RunFolder(wanted.place.bucket.below("runs/run-over"))
    at = Path(run.folder.url)
    for name, (text, age) in left.items():
        run.folder.write(name, text)
        aged(at / name, age)
    assert "0 deleted" in espalier(tmp_path, *words(tmp_path, "tpu-reap")).stdout
    aged(at / "launcher.json", 16)
    said = "1 deleted" if over else "0 deleted"
    assert said in espalier(tmp_path, *words(tmp_path, "tpu-reap")).stdout
    assert espalier(tmp_path, *words(tmp_path, "tpu-reap", "FORCE=1")).returncode == 0


WAITS = ("CREATING", "ACCEPTED", "PROVISIONING", "WAITING_FOR_RESOURCES")
DEAD = ("FAILED", "SUSPENDING", "SUSPENDED")


@pytest.mark.parametrize("state", [each.name for each in STATES])
@pytest.mark.parametrize("launcher", ["alive", "dead"])
def test_every_state_of_the_api_is_reaped_or_left_for_a_reason(
    server: FakeServer, wanted: Wanted, state: str, launcher: str
) -> None:
    """A run that is at work stays, one that waits goes with its launcher, a dead one goes."""
    api = TpuApi(wanted.place, QUICK)
    made(api, wanted, "mine", "following")
    server.set_state("mine", state)
    run = Path(wanted.place.bucket.url) / "runs/run-mine"
    if launcher == "dead":
        aged(run / "launcher.json", 16)
    RunFolder(Folder(str(run))).folder.write("workers/0.json", BEAT)
    reaped = [member.name for member in Fleet(wanted.place, api).reap(everything=False)]
    goes = state in DEAD or (state in WAITS and launcher == "dead")
    assert reaped == (["mine"] if goes else [])
    assert server.names == ([] if goes else ["mine"])
    server.slices.clear()


def test_a_node_that_was_preempted_is_dead_whatever_its_request_says(
    server: FakeServer, wanted: Wanted
) -> None:
    api = TpuApi(wanted.place, QUICK)
    made(api, wanted, "mine", "following")
    server.set_state("mine", "ACTIVE")
    next(iter(server.slices.values())).node = "PREEMPTED"
    assert [each.state for each in Fleet(wanted.place, api).reap(everything=False)] == ["PREEMPTED"]


def test_one_that_is_being_deleted_for_hours_is_deleted_again(
    server: FakeServer, wanted: Wanted
) -> None:
    api = TpuApi(wanted.place, QUICK)
    made(api, wanted, "mine", "following")
    server.set_state("mine", "DELETING")
    assert list(Fleet(wanted.place, api).reap(everything=False)) == []
    (found,) = server.slices.values()
    found.resource.create_time = datetime.now(UTC) - timedelta(hours=2)
    assert len(list(Fleet(wanted.place, api).reap(everything=False))) == 1


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"espalier": "managed"},
        {"espalier": "managed", OWNER_LABEL: "theirs"},
        {"espalier": "managed", OWNER_LABEL: "theirs", BUCKET: "another-bucket"},
        {OWNER_LABEL: "owner-mine", BUCKET: "ours"},
    ],
)
def test_what_is_not_ours_is_never_reaped(
    server: FakeServer, wanted: Wanted, labels: dict[str, str], everything: bool
) -> None:
    """Dead, and even where this bucket knows one of the same name."""
    api = TpuApi(wanted.place, QUICK)
    ours = {BUCKET: bucket_label(wanted.place.bucket.url)}
    labels = {**labels, **(ours if labels.get(BUCKET) == "ours" else {})}
    TpuFolder(wanted.place.bucket, "mine").announce(wanted, "owner-mine", kept=False)
    foreign(api, wanted, "mine", **labels)
    server.set_state("mine", "FAILED")
    assert list(Fleet(wanted.place, api).reap(everything=everything)) == []
    with pytest.raises(InputError, match="not of this BUCKET and owner, so it is not deleted"):
        Fleet(wanted.place, api).down("mine")
    assert server.names == ["mine"]
    server.slices.clear()


def test_one_of_this_bucket_whose_record_is_lost_goes_by_force_alone(
    server: FakeServer, wanted: Wanted
) -> None:
    api = TpuApi(wanted.place, QUICK)
    made(api, wanted, "mine")
    TpuFolder(wanted.place.bucket, "mine").forget()
    assert list(Fleet(wanted.place, api).reap(everything=False)) == []
    assert [each.name for each in Fleet(wanted.place, api).reap(everything=True)] == ["mine"]


def test_a_tpu_of_another_bucket_is_left_alone(
    server: FakeServer, wanted: Wanted, tmp_path: Path
) -> None:
    made(TpuApi(wanted.place, QUICK), wanted, "live", "following")
    server.set_state("live", "ACTIVE")
    elsewhere = [*PLACE, f"BUCKET={tmp_path / 'other'}"]
    status = espalier(tmp_path, "tpu-status", *elsewhere)
    assert "of another BUCKET" in status.stdout
    assert espalier(tmp_path, "tpu-reap", *elsewhere).stdout == "0 deleted\n"
    assert espalier(tmp_path, "tpu-reap", "FORCE=1", *elsewhere).stdout == "0 deleted\n"
    down = espalier(tmp_path, "tpu-down", "NAME=live", *elsewhere)
    refused(down, 2, "so it is another's; give the BUCKET that it was made with")
    assert server.names == ["live"]
    assert espalier(tmp_path, *words(tmp_path, "tpu-down", "NAME=live")).returncode == 0


def test_up_that_is_stopped_leaves_nothing(server: FakeServer, tmp_path: Path) -> None:
    """As where the terminal is closed while the request waits."""
    server.plans = [("ACCEPTED", "WAITING_FOR_RESOURCES")]
    given = words(tmp_path, "tpu-up", "TPU=v6e-8", "NAME=mine")
    waiting = subprocess.Popen(
        command(tmp_path / "store", *given),
        env=quiet_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: server.names == ["mine"], 30)
    waiting.send_signal(signal.SIGHUP)
    _, told = waiting.communicate(timeout=60)
    assert waiting.returncode == 75, told
    assert "Deleted mine." in told
    assert server.names == []


def test_up_says_when_the_name_is_of_another_type(
    server: FakeServer, wanted: Wanted, tmp_path: Path
) -> None:
    TpuFolder(wanted.place.bucket, "mine").announce(wanted, "owner", kept=True)
    up = espalier(tmp_path / "s", *words(tmp_path, "tpu-up", "TPU=v6e-8", "NAME=mine"))
    refused(up, 2, "NAME=mine is a v5litepod-16 already")
    assert server.created == []


def test_up_takes_nobody_else_s_tpu(server: FakeServer, wanted: Wanted, tmp_path: Path) -> None:
    api = TpuApi(wanted.place, QUICK)
    foreign(api, wanted, "theirs", espalier="managed")
    up = espalier(tmp_path / "s", *words(tmp_path, "tpu-up", "TPU=v5litepod-16", "NAME=theirs"))
    refused(up, 2, "NAME=theirs is another's TPU")
    assert server.names == ["theirs"]
    server.slices.clear()
