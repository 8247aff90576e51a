"""Stages in real containers: the same bytes by every runtime, shut in, and stopped cleanly."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from espalier.contract.paths import ROOT
from espalier.errors import EspalierError
from espalier.host.images import Engine, find_engine
from tests.contract.command import (
    command,
    differing,
    espalier,
    quiet_environment,
    tree,
    without_times,
)
from tests.contract.waiting import wait_for_layer, wait_until
from tests.tiny import tiny_llama, token_rows

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]


def engine(name: str) -> Engine:
    try:
        found = find_engine(name)
    except EspalierError:
        found = None
    if found is None:
        pytest.skip(f"no {name} engine answers")
    return found


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "model", num_hidden_layers=24)


@pytest.fixture
def words(tmp_path: Path, parent: Path) -> list[str]:
    """A prune that takes a few seconds."""
    tokens = token_rows(tmp_path / "ids.safetensors", rows=32, width=128)
    return ["prune-sparsegpt", f"MODEL={parent}", f"CALIBRATION={tokens}", "SUITE=none"]


def weights(store: Path) -> dict[str, str]:
    return without_times(tree(store / "checkpoints" / "model-sparsegpt-0.5"))


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_a_container_gives_the_bytes_that_local_gives(
    tmp_path: Path, words: list[str], runtime: str
) -> None:
    engine(runtime)
    for name in ("local", runtime):
        done = espalier(tmp_path / name, *words, f"RUNTIME={name}")
        assert done.returncode == 0, done.stderr
    assert not differing(weights(tmp_path / "local"), weights(tmp_path / runtime))
    manifest = json.loads(
        (tmp_path / runtime / "checkpoints/model-sparsegpt-0.5/manifest.json").read_text()
    )
    assert manifest["image"]["digest"].startswith("sha256:")
    assert manifest["environment"]["runtime"] == runtime
    # What one runtime has made, another takes as done.
    again = espalier(tmp_path / runtime, *words, "RUNTIME=local")
    assert "is done already" in again.stderr


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_scores_and_pictures_too(tmp_path: Path, parent: Path, runtime: str) -> None:
    engine(runtime)
    tokens = token_rows(tmp_path / "ids.safetensors", rows=8, width=128)
    words = ["prune-minitron", f"MODEL={parent}", f"CALIBRATION={tokens}", "SUITE=none"]
    words += ["LAYERS=20", "HIDDEN=24", "FFN=32", "HEADS=2"]
    found = []
    for name in ("local", runtime):
        done = espalier(tmp_path / name, *words, f"RUNTIME={name}")
        assert done.returncode == 0, done.stderr
        found.append(without_times(tree(tmp_path / name)))
    assert not differing(*found)
    assert sum(path.endswith(".svg") for path in found[0]) == 4


def test_the_same_recipe_on_two_stores_is_two_runs(tmp_path: Path, words: list[str]) -> None:
    docker = engine("docker")
    first = start(tmp_path / "one", words, docker)
    second = espalier(tmp_path / "two", *words, "RUNTIME=docker")
    _, stderr = first.communicate(timeout=300)
    assert (first.returncode, second.returncode) == (0, 0), stderr + second.stderr


def running(docker: Engine, store: Path) -> list[dict[str, Any]]:
    """What the engine says of the containers that run on a store."""
    found = subprocess.run(
        docker.command("ps", "-q", "--filter", "label=org.espalier.managed=1"),
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    if not found:
        return []
    out = subprocess.run(docker.command("inspect", *found), capture_output=True, check=False)
    seen: list[dict[str, Any]] = json.loads(out.stdout or "[]")
    return [
        container
        for container in seen
        if any(mount["Source"].startswith(f"{store}/") for mount in container["Mounts"])
    ]


def start(store: Path, words: list[str], docker: Engine) -> subprocess.Popen[str]:
    """Start the prune in a container and wait for its third layer."""
    process = subprocess.Popen(
        command(store, *words, "RUNTIME=docker"),
        env=quiet_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_layer(store, 2, process)
    return process


def test_interrupted_in_a_container_the_same_command_goes_on(
    tmp_path: Path, words: list[str]
) -> None:
    docker = engine("docker")
    assert espalier(tmp_path / "whole", *words, "RUNTIME=docker").returncode == 0
    process = start(tmp_path / "stopped", words, docker)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 75, stderr
    assert "Traceback" not in stderr
    wait_until(lambda: not running(docker, tmp_path))
    done = espalier(tmp_path / "stopped", *words, "RUNTIME=docker")
    assert done.returncode == 0, done.stderr
    assert not differing(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


def test_a_dead_hosts_container_is_replaced(tmp_path: Path, words: list[str]) -> None:
    docker = engine("docker")
    assert espalier(tmp_path / "whole", *words, "RUNTIME=docker").returncode == 0
    start(tmp_path / "dead", words, docker).kill()
    done = espalier(tmp_path / "dead", *words, "RUNTIME=docker")
    assert done.returncode == 0, done.stderr
    assert not differing(weights(tmp_path / "whole"), weights(tmp_path / "dead"))
    wait_until(lambda: not running(docker, tmp_path))


def test_a_container_is_shut_in(tmp_path: Path, words: list[str]) -> None:
    docker = engine("docker")
    process = start(tmp_path / "store", [*words, "MEMORY=2g", "CPUS=1.5"], docker)
    (seen,) = running(docker, tmp_path)
    process.terminate()
    process.communicate(timeout=90)
    host = seen["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["NetworkMode"] == "none"
    assert (host["Memory"], host["NanoCpus"]) == (2 << 30, 1_500_000_000)
    assert "no-new-privileges" in host["SecurityOpt"]
    assert seen["Config"]["User"] == f"{os.getuid()}:{os.getgid()}"
    writable = {mount["Destination"] for mount in seen["Mounts"] if mount["RW"]}
    assert writable == {"/out"}
    assert not any("HF_TOKEN" in variable for variable in seen["Config"]["Env"])


@pytest.mark.parametrize(
    ("profile", "variables", "results"),
    [
        ("wanda", {"PATTERN": "2:4"}, ["checkpoints/tiny-wanda-2of4"]),
        (
            "minitron",
            {"LAYERS": "20", "FFN": "32"},
            [
                "checkpoints/tiny-minitron-20-f32",
                "scores/tiny/minitron-depth-ids-ppl-20",
                "scores/tiny/minitron-width-ids-l2-l2-128",
            ],
        ),
    ],
)
def test_compose_prunes_and_evaluates_as_the_caller(
    tmp_path: Path, parent: Path, profile: str, variables: dict[str, str], results: list[str]
) -> None:
    docker = engine("docker")
    compose = docker.command("compose", "--project-name", f"espalier-test-{os.getpid()}")
    if subprocess.run([*compose, "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    store = tmp_path / "store"
    assert espalier(store, "adopt", f"FROM={parent}", "NAME=tiny").returncode == 0
    tokens = token_rows(store / "ids.safetensors", rows=4)
    caller = "1234:1234"
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", caller, store], check=True)
    else:
        caller = f"{os.getuid()}:{os.getgid()}"
    environment = {
        **os.environ,
        "STORE": str(store),
        "ESPALIER_USER": caller,
        "MODEL": "tiny",
        "CALIBRATION": f"/store/{tokens.name}",
        "DATA": f"/store/{tokens.name}",
        "HF_TOKEN": "",
        **variables,
    }
    try:
        up = subprocess.run(
            [*compose, "--profile", profile, "up", "--no-color"],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert up.returncode == 0, up.stderr + up.stdout
    finally:
        down = [*compose, "--profile", profile, "down", "--volumes"]
        subprocess.run(down, cwd=ROOT, env=environment, capture_output=True, check=False)
    pruned = results[0].removeprefix("checkpoints/")
    for result in (*results, "evals/tiny/quick", f"evals/{pruned}/quick"):
        manifest = store / result / "manifest.json"
        assert manifest.is_file(), up.stdout
        assert f"{manifest.stat().st_uid}:{manifest.stat().st_gid}" == caller


@pytest.fixture(autouse=True)
def _tidy(tmp_path: Path) -> Any:
    """Models in a temporary folder are many; keep none."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)
