"""Engines that map users or label files, as their own `info` says it, and what stages are told."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from espalier.host.cli import build
from espalier.host.images import Engine, installed_engine
from espalier.host.images import trial as trials
from espalier.host.images.security import Security
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.container import ContainerRuntime

ROOTFUL = {"SecurityOptions": ["name=seccomp,profile=default", "name=cgroupns"]}
ROOTLESS = {"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]}
REMAPPED = {"SecurityOptions": ["name=apparmor", "name=userns"]}
LABELLING = {"SecurityOptions": ["name=seccomp,profile=default", "name=selinux"]}
BOTH = {"SecurityOptions": ["name=selinux", "name=rootless"]}


def podman(rootless: bool, selinux: bool) -> dict[str, Any]:
    return {"host": {"security": {"rootless": rootless, "selinuxEnabled": selinux}}}


ME = "--user=1000:100"
UNLABELLED = "--security-opt=label=disable"
CASES = [
    ("docker", ROOTFUL, [ME], []),
    ("docker", {"SecurityOptions": None, "ServerErrors": ["down"]}, None, []),
    ("docker", ROOTLESS, ["--user=0:0"], ["docker users"]),
    ("docker", REMAPPED, [ME, "--userns=host"], ["docker users"]),
    ("docker", LABELLING, [ME, UNLABELLED], ["docker SELinux"]),
    ("docker", BOTH, ["--user=0:0", UNLABELLED], ["docker users", "docker SELinux"]),
    ("docker", podman(True, False), ["--user=0:0"], ["docker users"]),  # podman by docker's name
    ("podman", podman(False, False), [ME], []),
    ("podman", podman(True, False), [ME, "--userns=keep-id"], ["podman users"]),
    ("podman", podman(False, True), [ME, UNLABELLED], ["podman SELinux"]),
]


@pytest.mark.parametrize(("engine", "info", "flags", "rows"), CASES)
def test_what_a_stage_is_told_follows_from_what_the_engine_says(
    engine: str, info: dict[str, Any], flags: list[str] | None, rows: list[str]
) -> None:
    found = Security.read(json.dumps(info))
    assert (found.flags(engine, 1000, 100) if found else None) == flags
    said = found.rows(engine) if found else {}
    assert list(said) == rows
    assert all("\n" not in text and not text.endswith(".") for text in said.values())


@pytest.mark.parametrize("said", ["", "null", "[]", "{", '{"host": {}}', '{"host": null}', "7"])
def test_an_engine_that_says_nothing_of_it_is_taken_for_an_ordinary_one(said: str) -> None:
    assert Security.read(said) is None


Make = Callable[[str, dict[str, Any] | None], Path]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a stand-in for a client whose `info` says that; None: it does not answer to it."""
    monkeypatch.setattr(trials, "RECORDS", tmp_path / "records")
    for name in ("DOCKER", "PODMAN"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
        for kind in ("FLAGS", "RUN_FLAGS"):
            monkeypatch.delenv(f"{name}_{kind}", raising=False)

    def make(name: str, info: dict[str, Any] | None) -> Path:
        script, said = tmp_path / name, tmp_path / f"{name}-info"
        said.write_text(json.dumps(info) if info else "")
        calls = tmp_path / f"{name}-calls"
        script.write_text(
            f'#!/bin/sh\necho "$*" >>{calls}\ncase "$1" in info) cat {said}; [ -s {said} ];; esac\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv(name.upper(), str(script))
        return calls

    return make


def installed(name: str) -> Engine:
    found = installed_engine(name)
    assert found
    return found


def test_the_doctor_says_what_is_unusual(client: Make, capsys: pytest.CaptureFixture[str]) -> None:
    client("docker", BOTH)
    client("podman", podman(False, False))
    build.doctor([])
    said = " ".join(capsys.readouterr().out.split())
    assert "docker users rootless: stages run as root of its namespace" in said
    assert "ESPALIER_USER=0:0" in said
    assert "docker SELinux on: stages run without its label (label=disable)" in said
    assert "podman users" not in said
    assert "podman SELinux" not in said


def test_stages_and_the_trial_run_as_the_engine_needs_it(client: Make, tmp_path: Path) -> None:
    calls = client("docker", BOTH)
    engine = installed("docker")
    assert trials.tried(engine).runs
    started = next(line for line in calls.read_text().splitlines() if line.startswith("run "))
    words = ContainerRuntime(engine).argv(Launch("wanda", "cpu", "run-1", {}, tmp_path / "out"))
    for flag in ("--user=0:0", UNLABELLED):
        assert flag in started.split()
        assert flag in words
    asked = [line for line in calls.read_text().splitlines() if line.startswith("info")]
    assert len(asked) == 1  # it does not change from one command's question to the next


@pytest.mark.parametrize(("uid", "kept"), [(0, False), (1000, True)])
def test_a_podman_that_says_nothing_is_rootless_where_the_caller_is(
    client: Make, monkeypatch: pytest.MonkeyPatch, uid: int, kept: bool
) -> None:
    client("podman", None)
    monkeypatch.setattr(os, "getuid", lambda: uid)
    assert ("--userns=keep-id" in installed("podman").as_caller) == kept
