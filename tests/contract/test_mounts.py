"""A path that no container can be given ends the command before anything is built or queued."""

import os
from pathlib import Path

import pytest

from tests.contract.command import espalier, refused
from tests.tiny import tiny_llama

CLIENT = """\
#!/bin/sh
printf '%s ' "$(basename "$0")" "$@" >>"$CALLS"
echo >>"$CALLS"
"""


@pytest.fixture
def clients(tmp_path: Path) -> dict[str, str]:
    """Stand-ins for docker and Slurm, which write down how they are called."""
    for name in ("docker", "sbatch", "srun"):
        (tmp_path / name).write_text(CLIENT)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {"PATH": path, "DOCKER": str(tmp_path / "docker"), "CALLS": str(tmp_path / "calls")}


def called(clients: dict[str, str], name: str, verb: str = "") -> bool:
    calls = Path(clients["CALLS"])
    lines = calls.read_text().splitlines() if calls.exists() else []
    return any(line.startswith(f"{name} {verb}") for line in lines)


def test_no_image_is_built_for_a_store_that_cannot_be_mounted(
    tmp_path: Path, clients: dict[str, str]
) -> None:
    (tmp_path / "data\u00a0").mkdir()
    model = tiny_llama(tmp_path / "model")
    words = ("prune-magnitude", f"MODEL={model}", "RUNTIME=docker", "SUITE=quick")
    store = tmp_path / "store"
    text = tmp_path / "data\u00a0" / "text.txt\u00a0"
    text.write_text("some words")
    # Of the last step: the first ones would have taken hours.
    done = espalier(store, *words, f"DATA={text}", environment=clients)
    refused(done, 2, "which no engine can mount; rename it, or use RUNTIME=local")
    assert called(clients, "docker", "version")
    assert not called(clients, "docker", "build")
    assert not called(clients, "docker", "run")
    assert not list(store.glob("checkpoints/*"))


def test_no_job_is_queued_for_a_path_that_pyxis_misreads(
    tmp_path: Path, clients: dict[str, str]
) -> None:
    model = tiny_llama(tmp_path / "a,b" / "model")
    words = ("prune-magnitude", f"MODEL={model}", "RUNTIME=slurm", "CONTAINER=pyxis", "SUITE=none")
    store = tmp_path / "store"
    done = espalier(store, *words, environment=clients)
    refused(done, 2, "has ',', and pyxis misreads it; rename it, or use CONTAINER=none")
    assert not called(clients, "sbatch")
    assert not list(store.glob("slurm/*"))
