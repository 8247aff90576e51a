"""The start-up script run for real, with stubs of docker, gcloud and curl on PATH."""

import hashlib
import json
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from espalier.contract.files import file_sha256
from espalier.errors import InputError
from espalier.hardware.tpus import tpu_named
from espalier.host.runtimes.tpu_vm import startup
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.launcher import Launcher
from espalier.host.runtimes.tpu_vm.options import Location, Wanted
from espalier.host.runtimes.tpu_vm.startup import MOST_BYTES, WorkOrder, startup_script
from tests.contract.waiting import wait_until
from tests.tpu.conftest import IMAGE, QUICK
from tests.tpu.fake_server import FakeServer
from tests.tpu.hosts import Host, Hosts

WRITES = 'env >"$1/env"; echo done >"$1/result"; mkdir -p "$1/.run/scratch"; echo x >"$1/.run/y"'


@pytest.fixture
def run(bucket: Path) -> Path:
    """A run's folder with what the launcher puts there, and its order for a TPU."""
    run = bucket / "runs" / "run-1"
    run.mkdir(parents=True)
    (run / f"run-{hashlib.sha256(b'{}').hexdigest()}.json").write_text("{}")
    with tarfile.open(run / "code", "w:gz") as archive:
        archive.add(__file__, "espalier/code.py")
    (run / "code").rename(run / f"code-{file_sha256(run / 'code')}.tar.gz")
    order(bucket, run)
    return run


def order(bucket: Path, run: Path, attempt: int = 1, **inputs: str) -> str:
    path = bucket / "tpus" / "tpu-1" / "work"
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = {"ESPALIER_STATE": f"{run}/state", "ESPALIER_NODES": "2", "ODD": "a b=$HOME"}
    told = WorkOrder(str(run), IMAGE, inputs, environment, **hashes(run)).text(attempt)
    path.write_text(told)
    return told


def hashes(run: Path) -> dict[str, str]:
    """What the launcher tells the workers of the code and the spec that it has sent."""
    (code,) = (path.name[5:-7] for path in run.glob("code-*"))
    (spec,) = (path.name[4:-5] for path in run.glob("run-*"))
    return {"code": code, "spec": spec}


def script(
    bucket: Path, workers: int = 1, order: str = "", ends: bool = False, **timings: float
) -> str:
    tpu = tpu_named({1: "v5litepod-8", 2: "v4-16"}[workers])
    wanted = Wanted(tpu, Location("project", "us-west4-a", Folder(str(bucket))), spot=True)
    brief = replace(QUICK, heartbeat=0.1, **timings)
    return startup_script(Folder(f"{bucket}/tpus/tpu-1"), wanted, brief, order, ends)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Host]]:
    hosts = [Host(tmp_path / f"host-{number}", number) for number in range(2)]
    for host in hosts:
        host.runs(WRITES)
    yield hosts
    for host in hosts:
        host.off()


def exit_of(run: Path, worker: int = 0, attempt: int = 1) -> dict[str, object]:
    path = run / "exits" / str(attempt) / f"{worker}.json"
    wait_until(path.exists, 20)
    return dict(json.loads(path.read_text()))


def test_one_worker(hosts: list[Host], bucket: Path, run: Path) -> None:
    (bucket / "inputs" / "tiny-0").mkdir(parents=True)
    (bucket / "inputs" / "tiny-0" / "config.json").write_text("{}")
    order(bucket, run, model=f"{bucket}/inputs/tiny-0")
    hosts[0].boot(script(bucket))
    ended = exit_of(run)
    assert (ended["code"], ended["why"]) == (0, "")
    listed = (run / "listed" / "1").read_bytes()
    assert ended["listed"] == hashlib.sha256(listed).hexdigest()
    result = run / "output" / "result"
    assert f"{file_sha256(result)} {result.stat().st_size} result" in listed.decode().splitlines()
    assert (run / "output" / "result").read_text() == "done\n"
    assert [path for path in (run / "output" / ".run").rglob("*") if path.is_file()] == []
    beat = json.loads((run / "workers" / "0.json").read_text())
    assert (beat["state"], beat["attempt"]) == ("ended", 1)
    (command,) = hosts[0].containers
    local = hosts[0].folder / "local"
    for flag in (
        "--rm --privileged --net=host --init --shm-size=16g --ulimit memlock=68719476736",
        "--label org.espalier.managed=1",
        "--env ESPALIER_NODE=0 --env ESPALIER_HEAD=localhost",
        f'--mount=type=bind,"source={local}/out",target=/out ',
        f'--mount=type=bind,"source={local}/inputs/tiny-0",target=/in/model,readonly',
        f'"source={local}/code/espalier",target=/opt/espalier/espalier,readonly',
        f"{IMAGE} python -m espalier.run_stage /out",
    ):
        assert flag in command
    assert "gcloud auth configure-docker europe-docker.pkg.dev --quiet" in hosts[0].calls
    assert f"docker pull --quiet {IMAGE}" in hosts[0].calls


def test_what_the_container_sees(hosts: list[Host], bucket: Path, run: Path) -> None:
    hosts[0].boot(script(bucket), MEGASCALE_COORDINATOR_ADDRESS="10.9.9.9")
    exit_of(run)
    lines = (run / "output" / "env").read_text().splitlines()
    assert f"ESPALIER_STATE={run}/state" in lines
    assert "ODD=a b=$HOME" in lines  # as it was written, not as a shell would have it
    assert not [line for line in lines if line.startswith("MEGASCALE_")]


def test_all_workers_or_none(hosts: list[Host], bucket: Path, run: Path) -> None:
    hosts[0].boot(script(bucket, 2))
    first = run / "workers" / "0.json"
    wait_until(lambda: first.exists() and '"ready"' in first.read_text(), 20)
    time.sleep(0.5)
    assert hosts[0].containers == []
    hosts[1].boot(script(bucket, 2))
    assert exit_of(run, 0)["code"] == exit_of(run, 1)["code"] == 0
    for number, host in enumerate(hosts):
        (command,) = host.containers
        assert f"--env ESPALIER_NODE={number} --env ESPALIER_HEAD=10.0.0.1" in command
    assert not any("rsync" in call for call in hosts[1].calls)  # the result is the first's


def test_a_worker_of_another_attempt_does_not_count(
    hosts: list[Host], bucket: Path, run: Path
) -> None:
    (run / "workers").mkdir()
    (run / "workers" / "1.json").write_text('{"state": "ready", "time": "", "attempt": 10}\n')
    hosts[0].boot(script(bucket, 2, barrier=1))
    assert exit_of(run) == {"code": 75, "why": "the other workers did not get ready"}
    assert hosts[0].containers == []


def test_a_registry_that_is_busy(hosts: list[Host], bucket: Path, run: Path) -> None:
    (hosts[0].stub / "failing-pulls").write_text("1\n2\n")
    hosts[0].boot(script(bucket))
    assert exit_of(run)["code"] == 0
    assert sum(call.startswith("docker pull") for call in hosts[0].calls) == 3


def test_an_image_that_is_not_there(hosts: list[Host], bucket: Path, run: Path) -> None:
    (hosts[0].stub / "failing-pulls").write_text("x\n" * 99)
    hosts[0].boot(script(bucket))
    assert exit_of(run) == {"code": 3, "why": "the image cannot be pulled"}
    assert "manifest unknown" in (run / "logs" / "0.log").read_text()


def test_an_input_that_is_not_there(hosts: list[Host], bucket: Path, run: Path) -> None:
    order(bucket, run, model=f"{bucket}/inputs/absent")
    hosts[0].boot(script(bucket))
    assert exit_of(run) == {"code": 3, "why": "the input model cannot be copied"}


def test_a_stage_that_fails(hosts: list[Host], bucket: Path, run: Path) -> None:
    hosts[0].runs('seq 500; echo "espalier: TOKENS=0 is too few." >&2; exit 2')
    hosts[0].boot(script(bucket))
    assert exit_of(run) == {"code": 2, "why": ""}
    log = (run / "logs" / "0.log").read_text().splitlines()
    assert len(log) == 200
    assert log[-1] == "espalier: TOKENS=0 is too few."
    assert not (run / "output").exists()


def test_asked_to_stop(hosts: list[Host], bucket: Path, run: Path) -> None:
    hosts[0].runs('trap "echo saved; exit 75" TERM; while :; do sleep 0.1; done')
    hosts[0].boot(script(bucket))
    wait_until((hosts[0].stub / "pid").exists, 20)
    (run / "stop").mkdir()
    (run / "stop" / "1").touch()
    assert exit_of(run)["code"] == 75
    assert "saved" in (run / "logs" / "0.log").read_text()


def test_only_our_containers_are_removed(hosts: list[Host], bucket: Path, run: Path) -> None:
    (hosts[0].stub / "stale").touch()
    hosts[0].boot(script(bucket))
    exit_of(run)
    removed = [call for call in hosts[0].calls if call.startswith("docker rm")]
    assert removed == ["docker rm --force stale"]


def test_a_boot_after_the_end_does_nothing(hosts: list[Host], bucket: Path, run: Path) -> None:
    hosts[0].boot(script(bucket))
    exit_of(run)
    wait_until(lambda: any((hosts[0].folder / "local" / "served").glob("*.ended")))
    hosts[0].off()
    made = (run / "exits" / "1" / "0.json").stat().st_mtime_ns
    for host in (hosts[0], Host(hosts[0].folder.with_name("new-disk"), 0)):
        host.boot(script(bucket))
        before = len(host.calls)
        wait_until(lambda host=host, before=before: len(host.calls) > before + 5, 20)  # type: ignore[misc]
        host.off()
        assert len(host.containers) == (1 if host is hosts[0] else 0)
    assert (run / "exits" / "1" / "0.json").stat().st_mtime_ns == made


def test_a_boot_in_the_middle_is_no_second_start(
    hosts: list[Host], bucket: Path, run: Path
) -> None:
    hosts[0].runs("sleep 60")
    hosts[0].boot(script(bucket))
    wait_until((hosts[0].stub / "pid").exists, 20)
    hosts[0].off()
    hosts[0].boot(script(bucket))
    assert exit_of(run) == {"code": 75, "why": "its host was started again"}
    assert len(hosts[0].containers) == 1


def test_the_next_order_is_taken_by_the_same_hosts(
    hosts: list[Host], bucket: Path, run: Path
) -> None:
    hosts[0].boot(script(bucket))
    assert exit_of(run)["code"] == 0
    order(bucket, run, attempt=2)
    assert exit_of(run, attempt=2)["code"] == 0
    assert len(hosts[0].containers) == 2


DELETES = (
    "gcloud compute tpus queued-resources delete tpu-1 --project project --zone us-west4-a "
    "--force --quiet --async"
)


def launcher_is_seen(run: Path, count: int) -> None:
    (run / "launcher.json").write_text(json.dumps({"renewed": count}))


def test_a_slice_that_nobody_follows_deletes_itself_after_its_work(
    hosts: list[Host], bucket: Path, run: Path
) -> None:
    """Its launcher was killed, with its machine; nobody gives another command."""
    launcher_is_seen(run, 1)
    hosts[0].boot(script(bucket, ends=True, abandoned=2))
    assert exit_of(run)["code"] == 0
    wait_until(lambda: DELETES in hosts[0].calls, 30)


def test_a_slice_at_work_does_not_delete_itself(hosts: list[Host], bucket: Path, run: Path) -> None:
    """Without a launcher too: what it makes is wanted."""
    hosts[0].runs('while [[ ! -e "$1/go" ]]; do sleep 0.1; done')
    hosts[0].boot(script(bucket, ends=True, abandoned=1))
    wait_until((hosts[0].stub / "pid").exists, 20)
    time.sleep(3)
    assert DELETES not in hosts[0].calls
    (hosts[0].folder / "local" / "out" / "go").touch()
    assert exit_of(run)["code"] == 0
    wait_until(lambda: DELETES in hosts[0].calls, 30)


def test_a_slice_that_is_followed_does_not_delete_itself(
    hosts: list[Host], bucket: Path, run: Path
) -> None:
    hosts[0].boot(script(bucket, ends=True, abandoned=15))
    assert exit_of(run)["code"] == 0
    heard = hosts[0].folder / "local" / "launcher"
    for count in range(3):
        launcher_is_seen(run, count)
        wait_until(lambda count=count: f'"renewed": {count}' in heard.read_text(), 20)  # type: ignore[misc]
    assert DELETES not in hosts[0].calls


@pytest.mark.parametrize("case", ["held", "not the first worker"])
def test_who_never_deletes_the_slice(hosts: list[Host], bucket: Path, run: Path, case: str) -> None:
    host = hosts[0 if case == "held" else 1]
    text = script(bucket, 1 if case == "held" else 2, ends=case != "held", abandoned=1, barrier=1)
    host.boot(text)
    exit_of(run, host.number)
    before = len(host.calls)
    time.sleep(2)
    wait_until(lambda: len(host.calls) > before + 5, 20)
    assert DELETES not in host.calls


def test_an_order_that_another_has_written_is_not_followed(
    hosts: list[Host], bucket: Path, run: Path
) -> None:
    """The metadata has the hash of the one order that the TPU was made for."""
    given = order(bucket, run)
    path = bucket / "tpus" / "tpu-1" / "work"
    path.write_text(given.replace(IMAGE, f"evil.example/x/y@sha256:{'b' * 64}"))
    hosts[0].boot(script(bucket, order=given, ends=True, abandoned=2))
    wait_until(lambda: DELETES in hosts[0].calls, 30)
    assert not any(call.startswith("docker") for call in hosts[0].calls)
    path.write_text(given)
    assert exit_of(run)["code"] == 0


@pytest.mark.parametrize(("name", "what"), [("code-*", "code"), ("run-*", "run")])
def test_what_is_not_what_the_launcher_has_sent_does_not_run(
    hosts: list[Host], bucket: Path, run: Path, name: str, what: str
) -> None:
    (sent,) = run.glob(name)
    sent.write_bytes(b"{}\n")
    hosts[0].boot(script(bucket))
    ended = exit_of(run)
    assert ended["code"] == 3
    assert ended["why"] == (
        f"the {what} cannot be copied: {sent.name} in the bucket is not what the launcher has sent"
    )
    assert hosts[0].containers == []


def test_a_bucket_that_is_away_as_the_work_ends(hosts: list[Host], bucket: Path, run: Path) -> None:
    """More often than an absent input is asked for; the result and its record come after that."""
    hosts[0].runs(f'touch "{hosts[0].stub}/bucket-away"; {WRITES}')
    hosts[0].boot(script(bucket))
    wait_until((hosts[0].stub / "bucket-away").exists, 20)
    before = len(hosts[0].calls)
    wait_until(lambda: len(hosts[0].calls) > before + 30, 60)
    (hosts[0].stub / "bucket-away").unlink()
    assert exit_of(run)["code"] == 0
    assert (run / "output" / "result").read_text() == "done\n"


def test_a_boot_after_the_work_says_how_it_ended(
    hosts: list[Host], bucket: Path, run: Path
) -> None:
    """It had ended well, and the host was started again before it could say so."""
    hosts[0].runs(f'touch "{hosts[0].stub}/bucket-away"; {WRITES}; exit 2')
    hosts[0].boot(script(bucket))
    served = hosts[0].folder / "local" / "served"
    wait_until(lambda: any(served.glob("*.code")), 30)
    hosts[0].off()
    (hosts[0].stub / "bucket-away").unlink()
    hosts[0].boot(script(bucket))
    assert exit_of(run) == {"code": 2, "why": ""}
    assert len(hosts[0].containers) == 1


def test_without_privileges(hosts: list[Host], bucket: Path, run: Path) -> None:
    text = script(bucket).replace("PRIVILEGED=1\n", "PRIVILEGED=0\n")
    hosts[0].boot(text)
    assert exit_of(run)["code"] == 0
    (command,) = hosts[0].containers
    assert "--privileged" not in command
    assert "docker run --rm --cap-add=SYS_RESOURCE --cap-add=IPC_LOCK" in command


def test_what_an_order_cannot_say() -> None:
    with pytest.raises(InputError, match="more than one line"):
        WorkOrder("run", IMAGE, {}, {"X": "a\nimage=evil"}).text(1)


def test_the_script_is_small_and_has_no_secret(
    wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = startup_script(Folder("gs://b/tpus/it's"), wanted, QUICK)
    assert "hf_secret" not in text
    assert "ssh" not in text
    assert len(text.encode()) < MOST_BYTES
    assert text.splitlines()[1] == "FOLDER='gs://b/tpus/it'\"'\"'s'"


Make = Callable[..., Launcher]
TRAINS = """\
step=$(cat "$ESPALIER_STATE/step" 2>/dev/null || echo 0)
echo "begins at step $step"
mkdir -p "$ESPALIER_STATE"
while ((step < 30)); do
  step=$((step + 1))
  echo "$step" >"$ESPALIER_STATE/.step" && mv "$ESPALIER_STATE/.step" "$ESPALIER_STATE/step"
  sleep 0.1
done
echo "ended at $step" >"$1/result"
"""


def test_a_preempted_slice_goes_on_from_its_last_step(
    server: FakeServer, launcher: Make, tmp_path: Path, run: Path, wanted: Wanted
) -> None:
    """The launcher, the API and the script together, on two workers."""
    hosts = Hosts(tmp_path, 2, f"export ESPALIER_STATE={run}/state-$ESPALIER_NODE\n{TRAINS}")
    server.active, server.deleted = hosts.up, hosts.down
    two = replace(wanted, tpu=tpu_named("v4-16"))
    assert two.tpu.workers == 2

    def suspend() -> None:
        step = run / "state-0" / "step"
        wait_until(lambda: step.exists() and int(step.read_text() or 0) > 3)
        server.set_state(server.names[0], "SUSPENDED")

    thread = threading.Thread(target=suspend)
    thread.start()
    patient = replace(QUICK, silence=15, straggle=5, poll_most=0.2)
    said: list[str] = []
    try:
        made = launcher(said=said, timings=patient)
        made.wanted = two
        made.order = replace(made.order, **hashes(run))
        assert made.follow() == 0
    finally:
        thread.join()
        hosts.off()
    assert len(server.created) == 2
    assert (run / "output" / "result").read_text() == "ended at 30\n"
    begun = (run / "logs" / "0.log").read_text().splitlines()[0]
    assert int(begun.split()[-1]) > 3  # not again from the first
    assert any("2 of 2 workers" in text for text in said)


FUNCTIONS = startup.BODY.read_text().partition("\nmkdir -p")[0]
"""The script without what it does at once."""


def test_a_state_is_whole_while_it_is_written(tmp_path: Path) -> None:
    """The pulse reads it at any moment, and a worker of no state has to count as not ready."""
    script = f"""{FUNCTIONS}
    LOCAL={tmp_path}
    builtin printf preparing >"$LOCAL/state"
    exec 3>"$LOCAL/seen"
    printf() {{ cat "$LOCAL/state" >&3; builtin printf "$@"; }}
    state ready
    unset -f printf
    cat "$LOCAL/state"
    """
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "ready"
    assert (tmp_path / "seen").read_text() == "preparing"


@pytest.mark.parametrize(
    ("states", "ready"),
    [
        (["ready", "running"], True),
        (["ready", "preparing"], False),
        (["ready", ""], False),
        (["ready", "hello"], False),
        (["saving", "ended"], True),
    ],
)
def test_only_a_worker_that_says_so_is_ready(states: list[str], ready: bool) -> None:
    beats = "".join(f'{{"state": "{state}", "attempt": 1}}\n' for state in states)
    script = f"""{FUNCTIONS}
    gcloud() {{ builtin printf '%s' "$BEATS"; }}
    stopped() {{ return 1; }}
    RUN=run NUMBER=1 WORKERS=2 BARRIER=0 HEARTBEAT=0
    barrier
    """
    environment = {**os.environ, "BEATS": beats}
    done = subprocess.run(["bash", "-c", script], check=False, env=environment)
    assert (done.returncode == 0) == ready
