"""Engines that are installed, and whether they run containers: seen by stand-ins for their clients.

Each fails in the way, and with the words, of an engine that somebody has met.
"""

import json
import os
import platform
import subprocess
import tarfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from espalier.errors import EnvironmentFailure
from espalier.host.cli import build
from espalier.host.images import Engine, installed_engine, tried
from espalier.host.images import trial as trials
from espalier.host.images.tiny_program import HEADERS, PROGRAM, archive, program
from espalier.host.runtimes.choice import answering, choose_runtime, shortened
from espalier.host.settings import Settings

Make = Callable[..., Path]
DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?"
RUN_FAULTS = {
    "rlimits": (
        "Error: runc: error setting rlimit type 7: operation not permitted: OCI permission denied",
        126,
    ),
    "cgroups": ('Error: crun: the requested cgroup controller "pids" is not available', 126),
    "docker": (
        "docker: Error response from daemon: failed to create shim task: unknown.\n"
        "See 'docker run --help'.",
        125,
    ),
}
NO_IDS = (
    "WARN[0000] Using rootless single mapping into the namespace.\n"
    "Error: potentially insufficient UIDs or GIDs available in user namespace"
)


@pytest.fixture(autouse=True)
def own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "RECORDS", tmp_path / "records")
    for name in ("DOCKER", "PODMAN"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
        for kind in ("FLAGS", "RUN_FLAGS"):
            monkeypatch.delenv(f"{name}_{kind}", raising=False)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a stand-in for a client: for each of its commands, what it says and how it ends."""

    def make(name: str, **faults: tuple[str, int] | str) -> Path:
        cases = []
        for verb, fault in faults.items():
            message, code = fault if isinstance(fault, tuple) else (fault, 1)
            (tmp_path / f"{name}-{verb}").write_text(message + "\n")
            last = f"exit {code}" if code >= 0 else "sleep 600"
            cases.append(f'*" {verb} "*) cat {tmp_path}/{name}-{verb} >&2; {last};;')
        script = tmp_path / name
        script.write_text(
            f'#!/bin/sh\necho "$*" >>{tmp_path}/{name}-calls\n'
            f'case " $* " in {" ".join(cases)} *) ;; esac\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv(name.upper(), str(script))
        return script

    return make


def calls(tmp_path: Path, name: str, verb: str) -> list[str]:
    lines = (tmp_path / f"{name}-calls").read_text().splitlines()
    return [line for line in lines if line.split()[0] == verb]


def installed(name: str) -> Engine:
    found = installed_engine(name)
    assert found
    return found


@pytest.mark.parametrize("fault", RUN_FAULTS)
def test_an_engine_that_cannot_start_a_container_is_passed_over(
    fault: str, client: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client("docker", run=RUN_FAULTS[fault])
    client("podman")
    assert choose_runtime(Settings()).name == "podman"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    message = RUN_FAULTS[fault][0].splitlines()[0].rstrip(".")
    assert f"passes over docker (it cannot start a container: {message})" in said
    assert "RUNTIME=auto takes podman" in said


def test_without_any_that_runs_stages_run_locally(
    client: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    client("docker", version=DOWN)
    client("podman", **{"import": NO_IDS})
    assert choose_runtime(Settings()).name == "local"
    said = capsys.readouterr().err
    assert f"docker (it does not answer: {DOWN.rstrip('.')})" in said
    assert "podman (it cannot take an image: Error: potentially insufficient UIDs" in said
    assert "WARN" not in said


def test_nothing_is_said_where_nothing_was_passed_over(
    client: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose_runtime(Settings()).name == "local"
    client("docker")
    assert choose_runtime(Settings()).name == "docker"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("verb", ["info", "import", "run"])
def test_an_engine_that_hangs_is_not_waited_for(
    verb: str, client: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("espalier.host.images.engine.ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(trials, "START_SECONDS", 0.5)
    client("podman", **{verb: ("", -1)})
    began = time.monotonic()
    trial = tried(installed("podman"))
    assert time.monotonic() - began < 120  # of 600
    assert "did not answer in time" in trial.fault


def test_the_container_is_confined_as_a_stages_and_nothing_is_left(
    client: Make, tmp_path: Path
) -> None:
    client("docker")
    assert tried(installed("docker")).runs
    (started,) = calls(tmp_path, "docker", "run")
    for flag in ("--network=none", "--cap-drop=ALL", "--read-only", f"--user={os.getuid()}:"):
        assert flag in started
    assert started.endswith(f"/{PROGRAM}")
    reference = started.split()[-2]
    assert calls(tmp_path, "docker", "import") == [f"import - {reference}"]
    assert calls(tmp_path, "docker", "rmi") == [f"rmi -f {reference}"]


def test_what_runs_is_not_started_for_each_command(
    client: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client("docker")
    for _ in range(3):
        assert tried(installed("docker")).runs
    assert len(calls(tmp_path, "docker", "run")) == 1
    monkeypatch.setenv("DOCKER_RUN_FLAGS", "--ulimit nofile=64:64")  # another thing to try
    assert tried(installed("docker")).runs
    assert len(calls(tmp_path, "docker", "run")) == 2
    assert tried(installed("docker"), anew=True).runs
    assert len(calls(tmp_path, "docker", "run")) == 3


def test_a_daemon_that_went_down_is_seen_at_once(client: Make) -> None:
    client("docker")
    assert tried(installed("docker")).runs
    client("docker", version=DOWN)
    assert "Cannot connect" in tried(installed("docker")).fault


def test_a_fault_is_believed_for_a_moment_only(
    client: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client("podman", run=RUN_FAULTS["rlimits"])
    assert not tried(installed("podman")).runs
    client("podman")
    assert not tried(installed("podman")).runs  # within the moment
    (record,) = (tmp_path / "records").iterdir()
    seen = json.loads(record.read_text())
    record.write_text(json.dumps({**seen, "at": seen["at"] - 61}))
    assert tried(installed("podman")).runs
    record.write_text("not what was written")
    assert tried(installed("podman")).runs


def test_the_doctor_has_the_engines_own_words(
    client: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    client("docker", run=RUN_FAULTS["docker"])
    client("podman", run=RUN_FAULTS["rlimits"])
    build.doctor([])
    said = " ".join(capsys.readouterr().out.split())
    for fault in ("docker", "rlimits"):
        words = " ".join(RUN_FAULTS[fault][0].splitlines()[0].rstrip(".").split())
        assert words.replace(" ", "") in said.replace(" ", "")
    assert "auto → local" in said


def test_images_are_built_by_an_engine_that_runs_containers(client: Make) -> None:
    client("docker", run=RUN_FAULTS["docker"])
    with pytest.raises(EnvironmentFailure, match=r"docker \(it cannot start .*; mend one"):
        build._engine(Settings())
    client("podman")
    assert build._engine(Settings()).name == "podman"


def test_an_engine_asked_for_by_name_says_why_it_does_not_answer(
    client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    client("docker", version=DOWN)
    with pytest.raises(EnvironmentFailure, match=r"no docker engine answers \(Cannot connect"):
        answering("docker")
    monkeypatch.setenv("PODMAN", "/nowhere/podman")
    with pytest.raises(EnvironmentFailure, match=r"no podman engine answers \(there is no podman"):
        choose_runtime(Settings(runtime="podman"))


def test_the_program_runs_and_ends_well(tmp_path: Path) -> None:
    content = program(platform.machine())
    if content is None or platform.system() != "Linux":
        pytest.skip("no program for this machine")
    file = tmp_path / PROGRAM
    file.write_bytes(content)
    file.chmod(0o755)
    assert subprocess.run([file], check=False).returncode == 0
    with tarfile.open(fileobj=BytesIO(archive() or b"")) as tar:
        (entry,) = tar.getmembers()
        assert (entry.name, entry.size, entry.mode) == (PROGRAM, len(content), 0o755)


def test_programs_of_other_machines_are_theirs() -> None:
    arm = program("arm64")
    assert arm == program("aarch64")
    assert arm is not None
    assert arm[18:20] == (183).to_bytes(2, "little")
    words = [int.from_bytes(arm[i : i + 4], "little") for i in range(HEADERS, len(arm), 4)]
    # movz w8, #93 (exit); movz x0, #0; svc #0
    assert words == [0x52800000 | 93 << 5 | 8, 0xD2800000, 0xD4000001]
    assert program("s390x") is None


def test_a_long_message_keeps_its_ends() -> None:
    text = "first " + "x" * 500 + " last"
    assert shortened(text).startswith("first ")
    assert shortened(text).endswith(" last")
    assert len(shortened(text)) < 250
    assert shortened("short") == "short"
