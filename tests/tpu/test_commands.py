"""The commands as a user gives them, and a stage from the executor through a TPU VM and back."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from espalier.chain import Chain
from espalier.cli.plan import plan_first
from espalier.cli.session import Session
from espalier.discovery import stage_named
from espalier.errors import InputError, Interrupted
from espalier.execution import Executor, Request
from espalier.fingerprint import ROOT
from espalier.images import load_image
from espalier.made import Made
from espalier.planning_command import PlanningCommand
from espalier.runtimes.choice import choose_runtime
from espalier.runtimes.tpu_vm import runtime as tpu_vm
from espalier.runtimes.tpu_vm.client import TpuApi
from espalier.runtimes.tpu_vm.folder import Folder
from espalier.runtimes.tpu_vm.options import Wanted
from espalier.runtimes.tpu_vm.records import RunRecord, now
from espalier.runtimes.tpu_vm.request import creation
from espalier.runtimes.tpu_vm.run_folder import RunFolder
from espalier.runtimes.tpu_vm.runtime import TpuVmRuntime
from espalier.runtimes.tpu_vm.startup import Order
from espalier.runtimes.tpu_vm.tpu_folder import TpuFolder
from espalier.settings import Settings, read_settings
from espalier.stage import Outcome, Stage
from espalier.stage_exit import StageFailed
from espalier.store import Store
from espalier.training_command import TrainingCommand
from tests.contract.command import espalier, refused
from tests.contract.waiting import wait_until
from tests.tiny import tiny_llama
from tests.tpu.conftest import IMAGE, QUICK
from tests.tpu.fake_server import FakeServer
from tests.tpu.hosts import Hosts

PLACE = ("PROJECT=project", "ZONE=us-west4-a")


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


def settings(tmp_path: Path, **others: object) -> Settings:
    given = {
        "runtime": "tpu-vm",
        "store": tmp_path / "store",
        "tpu": "v5litepod-8",
        "zone": "us-west4-a",
        "project": "project",
        "bucket": str(tmp_path / "bucket"),
        "tpu_image": IMAGE,
    }
    return Settings.model_validate({**given, **others})


def executor(asked: Settings) -> Executor:
    patient = QUICK.__class__(**{**QUICK.__dict__, "silence": 20, "poll_most": 0.2, "grace": 15})
    return Executor(Store(asked.store), TpuVmRuntime(asked, patient), asked)


def on_tpus(name: str) -> Stage:
    """A stage that is cheap, as if it computed on TPUs."""
    return replace(stage_named(name), tpu=True)


def make_text(asked: Settings, name: str = "pydoc") -> Path:
    return Chain(executor(asked), asked).make(on_tpus("corpus"), {}, {}, name)


@pytest.mark.usefixtures("lock")
def test_a_stage_is_published_from_a_tpu_vm(
    server: FakeServer, hosts: Hosts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = settings(tmp_path)
    published = make_text(asked)
    manifest = json.loads((published / "manifest.json").read_text())
    assert manifest["environment"]["runtime"] == "tpu-vm"
    assert manifest["environment"]["device"] == "tpu"
    assert manifest["image"]["digest"] == f"sha256:{'a' * 64}"
    assert not (published / ".run").exists()
    assert {path.name for path in published.iterdir()} > {"manifest.json"}
    told = capsys.readouterr().err
    assert "v5litepod-8 in us-west4-a: 8 chips, 1 worker; 9.60 USD an hour" in told
    assert "takes quota for 8 on-demand v5e chips in project" in told
    assert "1 of 1 workers" in told
    assert len(server.created) == 1
    assert make_text(asked) == published  # done already: nothing is asked for
    assert len(server.created) == 1
    # A launcher that died after the run's end, before the result was published.
    (published / "manifest.json").unlink()
    assert (make_text(asked) / "manifest.json").is_file()
    assert "holds the result already" in capsys.readouterr().err
    assert len(server.created) == 1
    # FORCE=1 is another run.
    (published / "manifest.json").unlink()
    make_text(settings(tmp_path, force=True))
    assert len(server.created) == 2


@pytest.mark.usefixtures("lock")
def test_inputs_are_copied_once(server: FakeServer, hosts: Hosts, tmp_path: Path) -> None:
    hosts.command = 'cp "$STUB/../local/inputs/"*/* "$1"; echo {} >"$1/manifest.json"'
    asked = settings(tmp_path)
    source = tmp_path / "parent"
    source.mkdir()
    (source / "config.json").write_text("{}")
    stage = on_tpus("adopt")
    parameters = stage.parameters.from_assignments({})
    for name in ("one", "two"):
        executor(asked).execute(Request(stage, parameters, {"source": source}, name))
        assert (tmp_path / "store/models" / name / "config.json").read_text() == "{}"
    copied = [path.name for path in (tmp_path / "bucket/inputs").iterdir()]
    assert len(copied) == 2  # the folder, and the mark that it is whole
    assert any(name.endswith(".complete") for name in copied)
    spec = json.loads(next((tmp_path / "bucket/runs").glob("one-*/run.json")).read_text())
    assert spec["inputs"] == {"source": "/in/source"}


@pytest.mark.usefixtures("lock")
def test_a_stage_that_fails_on_a_tpu_vm(
    server: FakeServer, hosts: Hosts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts.command = "echo 'espalier: STEPS=0 is too few.' >&2; exit 2"
    with pytest.raises(StageFailed) as caught:
        make_text(settings(tmp_path))
    assert caught.value.exit_code == 2
    assert "espalier: STEPS=0 is too few.\nWorker 0 ended in 2." in capsys.readouterr().err
    assert list((tmp_path / "store/data").iterdir()) == []


@pytest.mark.usefixtures("lock")
def test_a_stage_for_one_machine_gets_no_slice_of_several(
    server: FakeServer, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="corpus runs on one machine, and TPU=v4-16 has 2"):
        make_text(settings(tmp_path, tpu="v4-16"))
    assert server.created == []


@pytest.mark.usefixtures("lock")
def test_interrupted_by_a_signal(server: FakeServer, hosts: Hosts, tmp_path: Path) -> None:
    hosts.command = 'trap "exit 75" TERM; while :; do sleep 0.1; done'

    def interrupt() -> None:
        wait_until(lambda: any((tmp_path / "hosts").glob("*/0/stub/pid")), 30)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted, match="1 of 1 workers have saved"):
        make_text(settings(tmp_path))


@pytest.mark.usefixtures("lock")
def test_a_held_tpu_serves_runs_and_stays(server: FakeServer, hosts: Hosts, tmp_path: Path) -> None:
    store = tmp_path / "store"
    held = espalier(store, *words(tmp_path, "tpu-up", "TPU=v5litepod-8", "NAME=mine"))
    assert held.returncode == 0, held.stderr
    assert held.stdout.splitlines()[-1] == "mine"
    assert "9.60 USD an hour" in held.stderr
    asked = settings(tmp_path, tpu=None, tpu_name="mine")
    for name in ("one", "two"):
        assert (make_text(asked, name) / "manifest.json").is_file()
    assert server.created == server.names == ["mine"]
    assert len(hosts.slices[0][0].containers) == 2
    status = espalier(store, *words(tmp_path, "tpu-status"))
    assert "mine" in status.stdout
    assert "kept for its user" in status.stdout
    assert "0 deleted" in espalier(store, *words(tmp_path, "tpu-reap")).stdout
    down = espalier(store, *words(tmp_path, "tpu-down", "NAME=mine"))
    assert down.stdout == "deleted mine\n"
    with pytest.raises(InputError, match="TPU_NAME=mine is not there any more"):
        make_text(asked, "three")


def words(tmp_path: Path, *words: str) -> list[str]:
    return [words[0], *PLACE, f"BUCKET={tmp_path / 'bucket'}", *words[1:]]


def made(api: TpuApi, wanted: Wanted, name: str, phase: str = "") -> None:
    """A queued resource as a launcher leaves it, its run in that phase."""
    tpu = TpuFolder(wanted.place.bucket, name)
    announced = tpu.announce(wanted, kept=False).created
    if phase:
        run = RunFolder(wanted.place.bucket.below(f"runs/run-{name}"))
        tpu.give(Order(run.folder.url, IMAGE, {}, {}), 1)
        record = {"phase": phase, "attempt": 1, "tpu": name, "workers": 4, "seen": now()}
        run.keep(RunRecord.model_validate(record))
        run.folder.write("logs/2.log", "step 5\n")
    api.create(creation(wanted, name, "#!/bin/sh", announced))


def test_status_logs_and_reaping(server: FakeServer, wanted: Wanted, tmp_path: Path) -> None:
    store, api = tmp_path / "store", TpuApi(wanted.place, QUICK)
    for name, phase in (
        ("live", "following"),
        ("over", "done"),
        ("dead", "following"),
        ("odd", ""),
    ):
        made(api, wanted, name, phase)
    foreign = creation(wanted, "foreign", "#!/bin/sh", now())
    foreign.queued_resource.tpu.node_spec[0].node.labels = {"team": "other"}
    api.create(foreign)
    for name in ("live", "over", "odd", "foreign"):
        server.set_state(name, "ACTIVE")
    server.set_state("dead", "SUSPENDED")
    status = espalier(store, *words(tmp_path, "tpu-status"))
    assert status.returncode == 0, status.stderr
    lines = {line.split()[0]: line for line in status.stdout.splitlines()}
    assert "foreign" not in lines
    assert "runs run-live (its launcher was seen 0 min ago)" in lines["live"]
    assert "at most 0.0" in lines["live"]
    assert "nobody's; make tpu-reap deletes it" in lines["over"]
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
    api.delete("foreign")


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
        (("tpu-up", "TPU=v5litepod-8", "NAME=Mine"), "NAME=Mine is no name of a TPU"),
        (("tpu-up", "TPU=v5litepod-8", "SIZE=8"), "SIZE is not a parameter here (known: NAME)"),
        (("tpu-up", "TPU=v9-8"), "TPU=v9-8 is not known; there are v4-8"),
        (("tpu-up",), "TPU is needed for a TPU VM"),
        (("tpu-logs",), "NAME is needed"),
        (("tpu-logs", "NAME=mine", "WORKER=all"), "WORKER=all is no worker's number"),
        (("tpu-status", "NAME=mine"), "NAME is not a parameter here"),
    ],
)
def test_what_the_commands_refuse(tmp_path: Path, given: tuple[str, ...], says: str) -> None:
    refused(espalier(tmp_path / "store", *words(tmp_path, *given)), 2, says)


def test_the_command_line_knows_no_grpc() -> None:
    code = "import sys, espalier.cli; sys.exit(any(m in sys.modules for m in ('grpc', 'fsspec')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_dry_run_calls_nothing(server: FakeServer, tmp_path: Path) -> None:
    up = espalier(tmp_path / "s", *words(tmp_path, "tpu-up", "TPU=v6e-8", "SPOT=1", "DRY_RUN=1"))
    assert up.returncode == 0, up.stderr
    assert '"spot": {}' in up.stdout
    assert "docker run --rm --privileged --net=host" in up.stdout
    assert server.calls == []
    assert not (tmp_path / "bucket").exists()


@pytest.mark.usefixtures("lock")
def test_a_dry_run_of_a_stage_shows_request_and_script(server: FakeServer, tmp_path: Path) -> None:
    asked = settings(tmp_path, dry_run=True, spot=True)
    chain = Chain(executor(asked), asked)
    chain.make(on_tpus("corpus"), {}, {}, "pydoc")
    (rows,) = chain.previews.values()
    assert rows["image"] == IMAGE
    assert rows["TPU"].startswith("v5litepod-8 spot in us-west4-a: 8 chips")
    assert '"accelerator_type": "v5litepod-8"' in rows["request"]
    assert rows["start-up script"].startswith("#!/usr/bin/env bash\nFOLDER=")
    assert server.calls == []


def test_no_secret_goes_to_a_tpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked = settings(tmp_path)
    runtime = TpuVmRuntime(asked)
    stage = on_tpus("corpus")
    request = Request(stage, stage.parameters.from_assignments({}), {}, "pydoc")
    launch = Executor(Store(asked.store), runtime, asked).launch(request, tmp_path / "partial")
    wanted = Wanted.of(asked)
    order = runtime.order(launch, wanted, RunFolder(wanted.place.bucket.below("runs/r")), {})
    assert "hf_secret" not in order.text(1)
    assert "hf_secret" not in runtime.rows(launch)["request"]
    assert order.environment["ESPALIER_STATE"] == f"{tmp_path}/bucket/runs/r/state"
    assert order.environment["ESPALIER_NODES"] == "1"


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("tpu", "TPU is needed for a TPU VM"),
        ("zone", "ZONE is needed for a TPU VM"),
        ("project", "PROJECT is needed for a TPU VM"),
        ("bucket", "BUCKET is needed for a TPU VM"),
        ("tpu_image", "TPU_IMAGE is needed for a TPU VM"),
    ],
)
@pytest.mark.usefixtures("lock")
def test_what_is_missing(tmp_path: Path, missing: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make_text(settings(tmp_path, dry_run=True, **{missing: None}))


@pytest.mark.usefixtures("lock")
@pytest.mark.parametrize("image", ["europe-docker.pkg.dev/p/r/maxtext:latest", "maxtext", "x/y@1"])
def test_an_image_by_tag_is_refused(tmp_path: Path, image: str) -> None:
    with pytest.raises(InputError, match="is not a registry's image by digest"):
        make_text(settings(tmp_path, dry_run=True, tpu_image=image))


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


@pytest.mark.parametrize(("fits", "force"), [(True, False), (False, False), (False, True)])
def test_a_pipeline_plans_before_it_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool, force: bool
) -> None:
    """Its training's words, on the checkpoint that it has pruned, for the TPU asked for."""
    planned: list[PlanningCommand] = []

    def run(command: PlanningCommand, chain: Chain) -> Path:
        planned.append(command)
        told = {"tried": [{"fits": fits}], "verdict": "does not fit."}
        (tmp_path / "plan.json").write_text(json.dumps(told))
        return tmp_path

    monkeypatch.setattr(PlanningCommand, "run", run)
    monkeypatch.setattr("espalier.cli.plan.report", lambda *given: None)
    asked = settings(tmp_path, force=force)
    session = Session(asked, Chain(executor(asked), asked), {})
    rest = {"TRAIN": "tpu", "TOKENS": "1M", "TRAIN_BATCH": "8", "TRAIN_SEQLEN": "32", "BATCH": "2"}
    rest["TRAIN_NAME"] = "run"  # of the run, not of its plan
    training = TrainingCommand.of_pipeline(rest, {"BATCH"})
    assert training is not None
    pruned = tiny_llama(tmp_path / "pruned")
    refusal = pytest.raises(InputError, match=r"does not fit\. PLAN=0")
    with nullcontext() if fits or force else refusal:
        plan_first(session, training, pruned)
    [plan] = planned
    assert "NAME" not in plan.training.sources
    assert plan.model.directory == pruned
    parameters = plan.training.parameters.model_dump()
    told = {name: parameters[name] for name in ("tokens", "batch", "seqlen", "tpu")}
    assert told == {"tokens": 1_000_000, "batch": 8, "seqlen": 32, "tpu": "v5litepod-8"}
    plan_first(session, training, tmp_path / "not made yet")
    assert len(planned) == 1


@pytest.mark.usefixtures("lock")
def test_what_another_image_checks_comes_back_with_what_it_needs(
    server: FakeServer, hosts: Hosts, tmp_path: Path
) -> None:
    """As train-tpu ends: with the result made, and its account beside it."""
    folder = tmp_path / "made"
    (folder / "scratch" / "state").mkdir(parents=True)
    told = {"started": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "peak_memory_bytes": 1}
    Made.of(Outcome(notes={"from": "a TPU"}), environment={"device": "tpu"}, **told).write(folder)
    (folder / "logits.safetensors").write_text("a check of models would read it")
    (folder / "scratch" / "state" / "large").write_text("not for the check")
    hosts.command = f'cp -r {folder}/. "$1/.run"; echo text >"$1/train.jsonl"'
    asked = settings(tmp_path)
    stage = replace(on_tpus("corpus"), checked_in="eval")
    published = Chain(executor(asked), asked).make(stage, {}, {}, "pydoc")
    manifest = json.loads((published / "manifest.json").read_text())
    assert manifest["notes"] == {"from": "a TPU"}
    assert manifest["environment"] == {"device": "tpu"}
    assert [file["path"] for file in manifest["files"]] == ["train.jsonl"]
    [output] = (tmp_path / "bucket" / "runs").glob("*/output")
    files = {path.name for path in output.rglob("*") if path.is_file()}
    assert files == {"train.jsonl", "made.json", "logits.safetensors"}


def test_a_run_that_has_ended_and_lost_its_launcher_is_reaped(
    server: FakeServer, wanted: Wanted, tmp_path: Path
) -> None:
    made(TpuApi(wanted.place, QUICK), wanted, "over", "following")
    server.set_state("over", "ACTIVE")
    run = RunFolder(wanted.place.bucket.below("runs/run-over"))
    for number in range(4):
        run.folder.write(f"exits/1/{number}.json", '{"code": 0}')
    assert "0 deleted" in espalier(tmp_path, *words(tmp_path, "tpu-reap")).stdout
    assert run.record is not None
    run.keep(run.record.model_copy(update={"seen": now() - timedelta(minutes=16)}))
    assert "1 deleted" in espalier(tmp_path, *words(tmp_path, "tpu-reap")).stdout


def test_up_takes_nobody_else_s_tpu(server: FakeServer, wanted: Wanted, tmp_path: Path) -> None:
    api = TpuApi(wanted.place, QUICK)
    api.create(creation(wanted, "theirs", "#!/bin/sh", now()))
    up = espalier(tmp_path / "s", *words(tmp_path, "tpu-up", "TPU=v5litepod-16", "NAME=theirs"))
    refused(up, 2, "NAME=theirs is another's TPU")
    assert server.names == ["theirs"]
    api.delete("theirs")
