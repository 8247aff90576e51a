"""What the tests run in warm interpreters is run as it would be in new ones."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.command import command, espalier, quiet_environment, without_times
from tests.contract.command import tree as files
from tests.contract.test_faults import stage_processes
from tests.contract.waiting import wait_for, wait_until
from tests.warm.interpreters import forget_variables_of_packages, socket_of, warmed

COLD = "espalier.run_stage has other variables"


def said() -> str:
    """What this process's warm interpreter has said so far."""
    socket = socket_of(sys.executable)
    assert socket
    return socket.with_suffix(".log").read_text()


def test_a_stage_is_run_warm_and_as_a_cold_one_is(tmp_path: Path) -> None:
    command(tmp_path)
    before = said().count(COLD)
    warm, cold = (
        espalier(tmp_path / name, "fetch-data", cold=name == "cold") for name in ("warm", "cold")
    )
    assert said().count(COLD) == before
    assert warm.returncode == cold.returncode == 0
    assert warm.stderr == cold.stderr
    assert without_times(files(tmp_path / "warm")) == without_times(files(tmp_path / "cold"))


def test_variables_that_packages_read_on_import_need_a_new_interpreter(tmp_path: Path) -> None:
    command(tmp_path)
    before = said().count(COLD)
    done = espalier(tmp_path, "fetch-data", environment={"HF_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert said().count(COLD) == before + 1


def test_variables_that_packages_set_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every command after the first import of lm_eval would need a new interpreter."""
    for name in ("HF_OF_A_PACKAGE", "OF_A_TEST"):
        monkeypatch.setenv(name, "1")
    forget_variables_of_packages()
    assert "HF_OF_A_PACKAGE" not in os.environ
    assert "OF_A_TEST" in os.environ


def test_what_is_killed_takes_its_stage_along(tmp_path: Path) -> None:
    """The relay stands for the command: the command dies with it, and the stage with that."""
    assert espalier(tmp_path, "fetch-data").returncode == 0
    process = subprocess.Popen(
        command(tmp_path, "grow", "STEPS=100000"),
        env=quiet_environment(),
        stderr=subprocess.DEVNULL,
    )
    wait_for(tmp_path, "models/sapling.partial-*/metrics.jsonl", process)
    stages = stage_processes(tmp_path)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in stages))


def test_an_end_by_a_signal_is_the_relays_too(tmp_path: Path) -> None:
    assert espalier(tmp_path, "fetch-data").returncode == 0
    process = subprocess.Popen(
        command(tmp_path, "grow", "STEPS=100000"),
        env=quiet_environment(),
        stderr=subprocess.DEVNULL,
    )
    wait_for(tmp_path, "models/sapling.partial-*/metrics.jsonl", process)
    for pid in stage_processes(tmp_path):
        os.kill(pid, signal.SIGKILL)
    assert process.wait(60) == 75  # as of a stage that the kernel has killed


def test_other_commands_are_left_alone() -> None:
    for words in (["true"], [sys.executable, "-c", "pass"], [sys.executable, "-m", "pytest"]):
        assert warmed(words) == words
