"""RUNTIME=slurm from the command line, on a machine without Slurm."""

from pathlib import Path

import pytest

from tests.contract.command import espalier, refused
from tests.tiny import tiny_llama

SLURM = ("RUNTIME=slurm", "CONTAINER=inside")


@pytest.fixture(scope="module")
def prune(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    parent = tiny_llama(tmp_path_factory.mktemp("parent") / "tiny")
    return ("prune-magnitude", f"MODEL={parent}", *SLURM)


def test_no_sbatch(tmp_path: Path, prune: tuple[str, ...]) -> None:
    done = espalier(tmp_path / "store", *prune, environment={"PATH": "/nowhere"})
    refused(done, 3, "no sbatch is on PATH")
    assert not (tmp_path / "store").exists()


def test_a_dry_run_prints_the_scripts(tmp_path: Path, prune: tuple[str, ...]) -> None:
    words = (*prune, "DRY_RUN=1", "PARTITION=gpu", "TIME=4:00:00", "SUITE=quick", "NODES=2")
    secret = {"HF_TOKEN": "hf_secret", "PATH": "/nowhere"}
    done = espalier(tmp_path / "store", *words, environment=secret)
    assert done.returncode == 0, done.stderr
    scripts = done.stdout.split("#!/usr/bin/env bash\n")[1:]
    assert len(scripts) == 2
    for script, title in zip(scripts, ("prune-magnitude", "eval"), strict=True):
        assert f"#SBATCH --job-name={title}\n" in script
        assert "#SBATCH --partition=gpu\n#SBATCH --time=4:00:00\n" in script
        assert "#SBATCH --nodes=1\n" in script
    assert " STEP=prune-magnitude " in scripts[0]
    assert " STEP=eval " in scripts[1]
    assert "SUITE=quick" in done.stdout
    assert "--dependency=afterok:<prune-magnitude>" in done.stdout
    assert "magnitude (would run)" in done.stdout
    assert "hf_secret" not in done.stdout
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("word", "says"), [("TIME=soon", "TIME=soon is not a time"), ("SPARSITY=2", "SPARSITY=2")]
)
def test_wrong_words(tmp_path: Path, prune: tuple[str, ...], word: str, says: str) -> None:
    refused(espalier(tmp_path / "store", *prune, word, "DRY_RUN=1"), 2, says)


def test_what_needs_no_job_runs_at_once(tmp_path: Path) -> None:
    assert espalier(tmp_path, "list", *SLURM).returncode == 0
