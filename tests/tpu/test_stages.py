"""A stage from the executor through a TPU VM and back."""

import json
import os
import signal
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from espalier.contract.made import Made
from espalier.contract.stage import Outcome
from espalier.contract.store import Store
from espalier.errors import InputError, Interrupted
from espalier.host.commands.pipeline import Pipeline
from espalier.host.draft import Draft, draw_up
from espalier.host.execution import Executor
from espalier.host.plan import Plan, Request
from espalier.host.runners import run
from espalier.host.runners.run import PlanRun
from espalier.host.runners.show import Show
from espalier.host.runtimes.tpu_vm import upload
from espalier.host.runtimes.tpu_vm.options import Wanted
from espalier.host.runtimes.tpu_vm.run_folder import RunFolder
from espalier.host.runtimes.tpu_vm.runtime import TpuVmRuntime
from espalier.host.stage_exit import StageFailed
from tests.contract.command import espalier
from tests.contract.waiting import wait_until
from tests.tiny import tiny_llama
from tests.tpu.asking import executor, make_text, on_tpus, settings, words
from tests.tpu.conftest import IMAGE
from tests.tpu.fake_server import FakeServer
from tests.tpu.hosts import Hosts


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
    spec = json.loads(next((tmp_path / "bucket/runs").glob("one-*/run-*.json")).read_text())
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
def test_inputs_that_no_host_can_hold_are_refused(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "HOST_DISK", 1)
    asked, source = settings(tmp_path), tmp_path / "parent"
    source.mkdir()
    (source / "config.json").write_text("{}")
    stage = on_tpus("adopt")
    request = Request(stage, stage.parameters.from_assignments({}), {"source": source}, "one")
    with pytest.raises(InputError, match=r"the inputs are 2 B, and each host .* has room for 1 B"):
        executor(asked).execute(request)
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
    published = executor(asked).execute(Request(stage, stage.parameters(), {}, "pydoc"))
    manifest = json.loads((published / "manifest.json").read_text())
    assert manifest["notes"] == {"from": "a TPU"}
    assert manifest["environment"] == {"device": "tpu"}
    assert [file["path"] for file in manifest["files"]] == ["train.jsonl"]
    [output] = (tmp_path / "bucket" / "runs").glob("*/output")
    files = {path.name for path in output.rglob("*") if path.is_file()}
    assert files == {"train.jsonl", "made.json", "logits.safetensors"}


@pytest.mark.usefixtures("lock")
def test_a_dry_run_of_a_stage_shows_request_and_script(server: FakeServer, tmp_path: Path) -> None:
    asked = settings(tmp_path, dry_run=True, spot=True)
    draft = Draft(Store(asked.store))
    target = draft.make(on_tpus("corpus"), {}, {}, "pydoc")
    rows = Show(executor(asked)).rows(draft.plan(target), target)
    assert rows["image"] == IMAGE
    assert rows["TPU"].startswith("v5litepod-8 spot in us-west4-a: 8 chips")
    assert '"accelerator_type": "v5litepod-8"' in rows["request"]
    assert rows["start-up script"].startswith("#!/usr/bin/env bash\nFOLDER=")
    assert server.calls == []


@pytest.mark.usefixtures("lock")
def test_no_secret_goes_to_a_tpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked = settings(tmp_path)
    runtime = TpuVmRuntime(asked)
    stage = on_tpus("corpus")
    request = Request(stage, stage.parameters.from_assignments({}), {}, "pydoc")
    launch = Executor(Store(asked.store), runtime, asked).resolve(request).launch
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


@pytest.mark.parametrize(("fits", "force"), [(True, False), (False, False), (False, True)])
def test_a_pipeline_plans_before_it_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool, force: bool
) -> None:
    """Its training's words, on the checkpoint that it has pruned, for the TPU asked for."""
    made: list[Request] = []

    def execute(request: Request) -> Path:
        made.append(request)
        target = asked.store / request.stage.section / request.name
        if request.stage.verb == "prune":
            tiny_llama(target)
        if request.stage.verb == "plan":
            target.mkdir(parents=True)
            told = {"tried": [{"fits": fits}], "verdict": "does not fit."}
            (target / "plan.json").write_text(json.dumps(told))
        return target

    monkeypatch.setattr(run, "print_report", lambda *given: None)
    asked = settings(tmp_path, force=force)
    fake = executor(asked)
    monkeypatch.setattr(Executor, "execute", lambda self, request: execute(request))
    parent, rows = tiny_llama(tmp_path / "parent"), tmp_path / "rows"
    rows.mkdir()
    (rows / "tokens.json").touch()
    words = {"MODEL": str(parent), "SUITE": "none", "TRAIN": "tpu", "TOKENS": "1M"}
    training = {"TRAIN_DATA": str(rows), "TRAIN_BATCH": "8", "TRAIN_SEQLEN": "32"}
    # The name is of the run, not of its plan.
    command = Pipeline.parse("magnitude", words | training | {"TRAIN_NAME": "run"})

    def build(draft: Draft) -> Path:
        return command.add(draft, lambda: "v5litepod-8")

    runner = PlanRun(fake)
    plan, _ = draw_up(build, fake.store, runner.settle)
    assert [request.stage.name for request in made] == ["magnitude"]
    refusal = pytest.raises(InputError, match=r"does not fit\. PLAN=0")
    with nullcontext() if fits or force else refusal:
        runner.finish(plan)
    names = [request.stage.name for request in made]
    paid = ["export", "train-tpu"] if fits or force else []
    assert names == ["magnitude", "plan-tpu", *paid]
    planned = made[1]
    assert planned.name != "run"
    parameters = planned.parameters.model_dump()
    pruned = asked.store / "checkpoints" / "parent-magnitude-0.5"
    assert parameters["config"] == json.loads((pruned / "config.json").read_text())
    told = {name: parameters[name] for name in ("tokens", "batch", "seqlen", "tpu")}
    assert told == {"tokens": 1_000_000, "batch": 8, "seqlen": 32, "tpu": "v5litepod-8"}

    def nothing(plan: Plan, path: Path) -> None:
        """As where the plan is only shown."""

    shown, _ = draw_up(build, Store(tmp_path / "empty"), nothing)
    assert [step.title for step in shown.steps] == ["prune-magnitude", "train-tpu"]
