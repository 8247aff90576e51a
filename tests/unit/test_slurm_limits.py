"""Slurm: what is too long for one job, and a job that is put back again and again."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from espalier.contract.code import hashed_files, stage_modules
from espalier.contract.discovery import stage_named, stages
from espalier.contract.manifest import MANIFEST
from espalier.contract.paths import ROOT
from espalier.contract.stage import Estimate, Stage
from espalier.contract.store import Store
from espalier.errors import EnvironmentFailure, InputError
from espalier.host.execution import Executor
from espalier.host.plan import Plan, Request, Step
from espalier.host.runners.run import PlanRun
from espalier.host.runners.submit import Submit
from espalier.host.runtimes.local import InsideRuntime
from espalier.host.runtimes.slurm.backends import Bare
from espalier.host.runtimes.slurm.requeues import MOST, require_progress
from espalier.host.runtimes.slurm.step import SlurmRuntime, SubmitHostRuntime
from espalier.host.runtimes.slurm.within_time import require_time
from espalier.host.saved_plan import to_text
from espalier.host.settings import Settings
from tests.unit.test_saved import begun, save

NEW = (
    *("to-maxtext", "to-hf", "hf2composer", "composer2hf", "export", "corpus", "plan-gpu"),
    *("plan-tpu", "score-sheared-llama"),
)
"""Stages that save nothing on their way."""


def taking(seconds: float, name: str = "eval") -> Request:
    stage = stage_named(name)
    stage = replace(stage, estimate=lambda parameters, config: Estimate(1, 1, seconds))
    return Request(stage, stage.parameters.model_construct(), {}, "tiny/quick")


def asked(tmp_path: Path, **given: object) -> Settings:
    return Settings.model_validate({"STORE": tmp_path, "RUNTIME": "slurm", **given})


@pytest.mark.parametrize("name", NEW)
def test_what_saves_nothing_has_to_end_within_its_job(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as refused:
        require_time(taking(3600, name), asked(tmp_path, TIME="60"))
    assert str(refused.value) == (
        f"{name} of tiny/quick takes about 60 min on 2 cores, and begins anew if its job is "
        "stopped: TIME=60 is too short; raise TIME= to 62 (minutes) or more, give more CPUS=, or "
        "submit it anyway with FORCE=1."
    )
    assert not require_time(taking(3600, name), asked(tmp_path, TIME="62"))


@pytest.mark.parametrize(
    "given",
    [
        *({}, {"TIME": "2:00:00"}, {"TIME": "1-0"}),
        *({"TIME": "60", "FORCE": "1"}, {"TIME": "60", "CPUS": "4"}),
    ],
)
def test_what_ends_in_time_is_submitted(tmp_path: Path, given: dict[str, str]) -> None:
    assert not require_time(taking(3600, "export"), asked(tmp_path, **given))


def test_more_cores_do_what_they_can_at_the_best(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"takes about 2\.0 h on 16 cores"):
        require_time(taking(16 * 3600, "export"), asked(tmp_path, TIME="60", CPUS="16"))


@pytest.mark.parametrize("name", sorted(set(stages()) - set(NEW)))
def test_what_resumes_may_take_many_jobs(tmp_path: Path, name: str) -> None:
    assert not require_time(taking(1e9, name), asked(tmp_path, TIME="5"))


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    scoring = taking(9, "score-sheared-llama")
    said = require_time(scoring, asked(tmp_path, TIME="60", ACCEL="cuda"))
    assert said.startswith(
        "score-sheared-llama begins anew if its job is stopped, and how long it takes is not"
    )
    stage = stage_named("export")
    request = Request(stage, stage.parameters.from_assignments({}), {}, "x")
    assert "see that TIME=60 is enough" in require_time(request, asked(tmp_path, TIME="60"))
    assert not require_time(request, asked(tmp_path))


def notes_progress(stage: Stage) -> bool:
    """Whether code that it loads notes how far it has come, or keeps a checkpoint's journal."""
    files = hashed_files(*stage_modules(stage)).values()
    notes = re.compile(r"\bnote\((self\.)?_?(context\.)?(scratch|folder)\b|Writer\(output")
    return any(notes.search(path.read_text()) for path in files)


@pytest.mark.parametrize("name", sorted(stages()))
def test_who_says_that_nothing_is_saved(name: str) -> None:
    stage = stage_named(name)
    if stage.saved is None:
        assert not notes_progress(stage)
    elif stage.saved.endswith(":noted") and not stage.network:
        assert notes_progress(stage)


def plan(store: Store, *requests: Request) -> Plan:
    by_target = {store.path(one.stage.section, one.name): one for one in requests}
    step = Step("evaluate", tuple(by_target))
    return Plan(by_target, (step,), list(by_target)[-1])


def test_nothing_is_queued_of_a_plan_with_such_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, store = asked(tmp_path, TIME="60"), Store(tmp_path)
    host = Bare(InsideRuntime())
    executor = Executor(store, SlurmRuntime(host), settings, SubmitHostRuntime(host))
    monkeypatch.setattr(subprocess, "run", lambda *given, **named: pytest.fail("was submitted"))
    with pytest.raises(InputError, match="raise TIME= to 62"):
        Submit(executor, PlanRun(executor)).finish(plan(store, taking(3600, "score-sheared-llama")))
    assert not (tmp_path / "slurm").exists()


def started(plan: Plan, store: Store, restart: int, job: str = "7") -> None:
    variables = {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restart)}
    require_progress(plan, store, store.root / "slurm", variables)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def partial(store: Store, tmp_path: Path) -> Path:
    """Work on the first of the plan's results."""
    place = store.partial("evals", "tiny/quick", "0" * 64)
    place.parent.mkdir(parents=True)
    return begun(tmp_path, "wanda").output.rename(place)


@pytest.fixture
def job(store: Store) -> Plan:
    other = replace(taking(9), name="tiny/paper")
    return plan(store, taking(9), other)


@pytest.mark.usefixtures("partial")
def test_a_job_that_gets_no_further_ends(store: Store, job: Plan) -> None:
    require_progress(job, store, store.root / "slurm", {"SLURM_JOB_ID": "7"})
    assert not (store.root / "slurm").exists()
    for restart in range(1, MOST):
        started(job, store, restart)
    started(job, store, 1, job="8")  # another job of the same step
    with pytest.raises(EnvironmentFailure) as ended:
        started(job, store, MOST)
    assert str(ended.value) == (
        "evaluate was put back into the queue 3 times in a row and got no further; raise TIME=, or "
        "let it save more often, and run the same command to resume."
    )
    started(job, store, 1, job="9")  # the same command again


def test_it_says_where_it_stays(store: Store, job: Plan, partial: Path) -> None:
    save(partial, "layer 7")
    for restart in range(1, MOST):
        started(job, store, restart)
    with pytest.raises(EnvironmentFailure, match=r"run the same command to resume from layer 7\.$"):
        started(job, store, MOST)


def test_a_job_that_gets_on_is_put_back_for_ever(store: Store, job: Plan, partial: Path) -> None:
    for restart in range(1, 10):
        if restart % 2:
            save(partial, f"layer {restart}")
        started(job, store, restart)


def test_a_result_is_progress_too(store: Store, job: Plan) -> None:
    for restart in range(1, MOST):
        started(job, store, restart)
    first = next(iter(job.requests))
    first.mkdir(parents=True)
    (first / MANIFEST).write_text("{}")
    for restart in range(MOST, 2 * MOST - 1):
        started(job, store, restart)
    with pytest.raises(EnvironmentFailure, match="got no further"):
        started(job, store, 2 * MOST - 1)


def test_work_that_cannot_be_read_is_no_progress(store: Store, job: Plan, partial: Path) -> None:
    for restart in range(1, MOST):
        (partial / ".run" / "run.json").write_text("{" * restart)
        started(job, store, restart)
    with pytest.raises(EnvironmentFailure, match="got no further"):
        started(job, store, MOST)


def test_a_job_asks_before_anything_else(store: Store, job: Plan, tmp_path: Path) -> None:
    """By the command that the job's script has."""
    stage = stage_named("corpus")
    request = Request(stage, stage.parameters.from_assignments({}), {}, "text")
    (tmp_path / "plan.json").write_text(to_text(plan(store, request), store))
    (store.root / "slurm").mkdir(parents=True)
    target = str(store.path("data", "text"))
    places = ", ".join([f'{{"{target}": ""}}'] * (MOST - 1))
    (store.root / "slurm" / "evaluate-7.places").write_text(f"[{places}]")
    words = [f"PLAN={tmp_path}/plan.json", "STEP=evaluate", f"STORE={store.root}"]
    environment = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(MOST), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-m", "espalier", "run", *words, "RUNTIME=slurm", "CONTAINER=inside"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("espalier: evaluate was put back into the queue 3 times in a row")
    assert not (store.root / "data").exists()
