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


ODD = "a:b, \"c\" $HOME 'é'"
"""A folder's name whose characters separate, quote and expand for others."""


def engine(name: str) -> Engine:
    try:
        found = find_engine(name)
    except EspalierError:
        found = None
    if found is None:
        pytest.skip(f"no {name} engine answers")
    return found


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A prune that takes a few seconds."""
    folder = tmp_path_factory.mktemp("deep") / ODD
    model = tiny_llama(folder / "model", num_hidden_layers=24)
    tokens = token_rows(folder / "ids.safetensors", rows=32, width=128)
    return ["prune-sparsegpt", f"MODEL={model}", f"CALIBRATION={tokens}", "SUITE=none"]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> dict[str, str]:
    """What that prune gives without a container."""
    return pruned(tmp_path_factory.mktemp("local"), *words, "RUNTIME=local")


def pruned(store: Path, *words: str) -> dict[str, str]:
    done = espalier(store, *words)
    assert done.returncode == 0, done.stderr
    return weights(store)


def weights(store: Path) -> dict[str, str]:
    files = without_times(tree(store / "checkpoints" / "model-sparsegpt-0.5"))
    assert files
    return files


# What an engine does by itself is looked at in both: it runs, shuts in, limits and stops a stage.
each_engine = pytest.mark.parametrize("runtime", ["docker", "podman"])
# podman takes over docker's images: what a stage computes there is looked at once above.
mostly_docker = pytest.mark.parametrize(
    "runtime", ["docker", pytest.param("podman", marks=pytest.mark.exhaustive)]
)


@each_engine
def test_a_container_gives_the_bytes_that_local_gives(
    tmp_path: Path, words: list[str], local: dict[str, str], runtime: str
) -> None:
    engine(runtime)
    store = tmp_path / ODD
    assert not differing(local, pruned(store, *words, f"RUNTIME={runtime}"))
    manifest = json.loads((store / "checkpoints/model-sparsegpt-0.5/manifest.json").read_text())
    assert manifest["image"]["digest"].startswith("sha256:")
    assert manifest["environment"]["runtime"] == runtime
    # What one runtime has made, another takes as done.
    again = espalier(store, *words, "RUNTIME=local")
    assert "is done already" in again.stderr


@mostly_docker
def test_scores_and_pictures_too(tmp_path: Path, runtime: str) -> None:
    engine(runtime)
    parent = tiny_llama(tmp_path / "model", num_hidden_layers=6)
    tokens = token_rows(tmp_path / "ids.safetensors", rows=8, width=128)
    words = ["prune-minitron", f"MODEL={parent}", f"CALIBRATION={tokens}", "SUITE=none"]
    words += ["LAYERS=4", "HIDDEN=24", "FFN=32", "HEADS=2"]
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


def running(engine: Engine, store: Path) -> list[dict[str, Any]]:
    """What the engine says of the containers that run on a store."""
    found = subprocess.run(
        engine.command("ps", "-q", "--filter", "label=org.espalier.managed=1"),
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    if not found:
        return []
    out = subprocess.run(engine.command("inspect", *found), capture_output=True, check=False)
    seen: list[dict[str, Any]] = json.loads(out.stdout or "[]")
    return [
        container
        for container in seen
        if any(mount["Source"].startswith(f"{store}/") for mount in container["Mounts"])
    ]


def start(store: Path, words: list[str], engine: Engine) -> subprocess.Popen[str]:
    """Start the prune in a container and wait for its third layer."""
    process = subprocess.Popen(
        command(store, *words, f"RUNTIME={engine.name}"),
        env=quiet_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_layer(store, 2, process)
    return process


@each_engine
def test_interrupted_in_a_container_the_same_command_goes_on(
    tmp_path: Path, words: list[str], local: dict[str, str], runtime: str
) -> None:
    found = engine(runtime)
    process = start(tmp_path, words, found)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 75, stderr
    assert "Traceback" not in stderr
    wait_until(lambda: not running(found, tmp_path))
    assert not differing(local, pruned(tmp_path, *words, f"RUNTIME={runtime}"))


def test_a_dead_hosts_container_is_replaced(
    tmp_path: Path, words: list[str], local: dict[str, str]
) -> None:
    docker = engine("docker")
    start(tmp_path, words, docker).kill()
    assert not differing(local, pruned(tmp_path, *words, "RUNTIME=docker"))
    wait_until(lambda: not running(docker, tmp_path))


@each_engine
def test_a_container_is_shut_in(tmp_path: Path, words: list[str], runtime: str) -> None:
    found = engine(runtime)
    process = start(tmp_path, [*words, "MEMORY=2g", "CPUS=1.5"], found)
    (seen,) = running(found, tmp_path)
    process.terminate()
    process.communicate(timeout=90)
    host = seen["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert capabilities(seen) == []
    assert host["NetworkMode"] == "none"
    assert (host["Memory"], host["NanoCpus"]) == (2 << 30, 1_500_000_000)
    assert any("no-new-privileges" in option for option in host["SecurityOpt"])
    assert seen["Config"]["User"] == f"{os.getuid()}:{os.getgid()}"
    writable = {mount["Destination"] for mount in seen["Mounts"] if mount["RW"]}
    assert writable == {"/out"}
    assert not any("HF_TOKEN" in variable for variable in seen["Config"]["Env"])


def capabilities(seen: dict[str, Any]) -> list[str]:
    """Those that a container has: podman lists them, docker says what it was told."""
    if "BoundingCaps" in seen:
        return [*(seen["BoundingCaps"] or []), *(seen["EffectiveCaps"] or [])]
    host = seen["HostConfig"]
    return host["CapAdd"] or [] if host["CapDrop"] == ["ALL"] else ["those not dropped"]


@pytest.mark.parametrize(
    ("profile", "variables", "results"),
    [
        ("wanda", {"PATTERN": "2:4"}, ["checkpoints/tiny-wanda-2of4"]),
        (
            "minitron",
            {"LAYERS": "2", "FFN": "32"},
            [
                "checkpoints/tiny-minitron-2-f32",
                "scores/tiny/minitron-depth-ids-ppl-2",
                "scores/tiny/minitron-width-ids-l2-l2-128",
            ],
        ),
    ],
)
def test_compose_prunes_and_evaluates_as_the_caller(
    tmp_path: Path, profile: str, variables: dict[str, str], results: list[str]
) -> None:
    docker = engine("docker")
    parent = tiny_llama(tmp_path / "model")
    compose = docker.command("compose", "--project-name", f"espalier-test-{os.getpid()}")
    if subprocess.run([*compose, "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    store = tmp_path / ODD
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
