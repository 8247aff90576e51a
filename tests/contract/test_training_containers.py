"""Training in real containers: without a network, on two ranks, stopped, and under compose."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from espalier.contract.paths import ROOT
from tests.contract.command import (
    command,
    differing,
    espalier,
    quiet_environment,
    tree,
    without_times,
)
from tests.contract.test_containers import engine, mostly_docker
from tests.contract.waiting import wait_for
from tests.fsdp.tiny_runs import token_data
from tests.tiny import tiny_llama, token_rows

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]

WORDS = ("BATCH=8", "SEQLEN=32", "LR=0.003", "VALID_TOKENS=512", "THREADS=1")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    model = tiny_llama(tmp_path / "tiny")
    data = token_data(tmp_path / "walks", model)
    return ["train-gpu", f"CKPT={model}", f"DATA={data}", "NAME=run", *WORDS]


def trained(store: Path, *words: str) -> dict[str, str]:
    done = espalier(store, *words)
    assert done.returncode == 0, done.stderr
    files = tree(store / "checkpoints" / "run")
    assert any(name.startswith("trackers/tensorboard/") for name in files)
    return without_times(files)


def losses(store: Path) -> list[float]:
    rows = (store / "checkpoints" / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


@mostly_docker
def test_a_container_gives_the_bytes_that_local_gives(
    tmp_path: Path, words: list[str], runtime: str
) -> None:
    engine(runtime)
    local = trained(tmp_path / "local", *words, "TOKENS=2560", "RUNTIME=local")
    inside = trained(tmp_path / runtime, *words, "TOKENS=2560", f"RUNTIME={runtime}")
    assert not differing(local, inside)
    assert {"loss.png", "loss.svg", "config.json"} <= local.keys()


def test_two_ranks_in_a_container_that_is_stopped(tmp_path: Path, words: list[str]) -> None:
    """Without a network; SIGTERM, then one rank to the end: the losses of a run at once."""
    engine("docker")
    words = [*words, "TOKENS=25600", "EPOCHS=3"]
    store = tmp_path / "store"
    process = subprocess.Popen(
        command(store, *words, "RUNTIME=docker", "GPUS=2"),
        env=quiet_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(store, "checkpoints/run.partial-*/metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 75, told
    assert "Traceback" not in told
    trained(store, *words, "RUNTIME=docker")
    trained(tmp_path / "once", *words, "RUNTIME=local")
    assert losses(store) == pytest.approx(losses(tmp_path / "once"), abs=1e-4)


@pytest.mark.parametrize("profile", ["train", "train-tpu"])
def test_compose_prunes_trains_and_evaluates(tmp_path: Path, profile: str) -> None:
    docker = engine("docker")
    compose = docker.command("compose", "--project-name", f"espalier-{profile}-{os.getpid()}")
    if subprocess.run([*compose, "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    store = tmp_path / "store"
    model = tiny_llama(tmp_path / "tiny")
    assert espalier(store, "adopt", f"FROM={model}", "NAME=tiny").returncode == 0
    data = token_data(store / "data" / "walks", model)
    tokens = token_rows(store / "ids.safetensors", rows=4)
    subprocess.run(["chown", "-R", "1234:1234", store], check=True)
    environment: dict[str, Any] = {
        **os.environ,
        "STORE": str(store),
        "ESPALIER_USER": "1234:1234",
        "MODEL": "tiny",
        "NAME": "pruned",
        "PATTERN": "2:4",
        "CALIBRATION": f"/store/{tokens.name}",
        "DATA": f"/store/{tokens.name}",
        "TRAIN_DATA": f"/store/data/{data.name}",
        "TRAIN_BATCH": "8",
        "TRAIN_SEQLEN": "32",
        "TOKENS": "2560",
        "HF_TOKEN": "",
    }
    profiles = ["--profile", "magnitude", "--profile", profile]
    try:
        up = subprocess.run(
            [*compose, *profiles, "up", "--no-color"],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert up.returncode == 0, up.stderr + up.stdout
    finally:
        down = [*compose, *profiles, "down", "--volumes"]
        subprocess.run(down, cwd=ROOT, env=environment, capture_output=True, check=False)
    manifest = json.loads((store / "checkpoints" / "trained" / "manifest.json").read_text())
    assert manifest["inputs"]["model"]["name"] == "checkpoints/pruned"
    assert manifest["pruning"]["pattern"] == "2:4"
    assert manifest["checks"]["pattern_exact"] == "2:4"
    for name in ("pruned", "trained"):
        assert (store / "evals" / name / "quick" / "manifest.json").is_file()
