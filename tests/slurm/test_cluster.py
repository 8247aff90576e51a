"""RUNTIME=slurm on a real cluster of two nodes: chains, steps, stops and refusals."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from espalier.contract.paths import ROOT
from espalier.contract.processes import USUAL_PORT
from espalier.host.runtimes.slurm.step import PORTS
from tests.contract.command import espalier, refused
from tests.contract.waiting import layers_written, wait_until
from tests.sheared.shearing import REFERENCES, asked, three_domains
from tests.slurm.cluster import Cluster, lacking, running
from tests.tiny import tiny_llama, token_rows

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacking()), reason=lacking()),
]
TOKEN = "hf_kept_at_home"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("parent") / "tiny")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / 'a 100%j "store", it\'s $HOME: #1'  # Slurm's options and the script quote it


def submitted(
    cluster: Cluster, store: Path, *words: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The command under RUNTIME=slurm, and its jobs: the last line that it printed."""
    done = espalier(
        store,
        *(words[0], "CONTAINER=inside", *words[1:]),
        "RUNTIME=slurm",
        environment={**cluster.environment, "HF_TOKEN": TOKEN},
    )
    return done, (done.stdout.splitlines() or [""])[-1].split()


def log(store: Path, number: str) -> str:
    (path,) = store.glob(f"slurm/*-{number}.log")
    return path.read_text()


def test_a_pipeline_is_a_chain_of_jobs(cluster: Cluster, store: Path, parent: Path) -> None:
    text = store.with_name("text.txt")
    text.write_text("the quick brown fox jumps over the lazy dog " * 200)
    words = ("prune-magnitude", f"MODEL={parent}", "SUITE=perplexity", f"DATA={text}")
    done, jobs = submitted(cluster, store, *words)
    assert done.returncode == 0, done.stderr
    assert len(jobs) == 2
    first, second = jobs
    assert f"prune-magnitude: job {first}" in done.stderr
    assert cluster.job(second)["Dependency"].startswith(f"afterok:{first}")
    assert cluster.ended(first) == "COMPLETED", log(store, first)
    assert cluster.ended(second) == "COMPLETED", log(store, second)
    pruned = store / "checkpoints" / "tiny-magnitude-0.5"
    assert log(store, first).splitlines()[-1] == str(pruned)
    assert "is done already" in log(store, second)
    assert "ppl" in log(store, second)
    manifest = json.loads((pruned / "manifest.json").read_text())
    assert manifest["command"][0] == "srun"
    assert manifest["environment"]["runtime"] == "slurm"
    assert (store / "evals" / "tiny-magnitude-0.5" / "perplexity" / "manifest.json").is_file()
    again, lines = submitted(cluster, store, *words)
    assert again.returncode == 0
    assert " ".join(lines) == str(pruned)  # nothing is missing, so nothing is submitted


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_step_spans_the_nodes_that_it_asks_for(
    cluster: Cluster, tmp_path: Path, nodes: int
) -> None:
    batch = f"{sys.executable} -m tests.slurm.step {nodes} {tmp_path}"
    words = ["sbatch", "--parsable", "--nodes=2", f"--chdir={ROOT}", f"--wrap={batch}"]
    number = cluster.ask(*words, f"--output={tmp_path}/log").strip()
    assert cluster.ended(number) == "COMPLETED", (tmp_path / "log").read_text()
    seen = {path.name: path.read_text() for path in tmp_path.glob("[0-9]")}
    port = PORTS[int(number) % len(PORTS)] if nodes > 1 else USUAL_PORT
    head = f"127.0.0.1:{port}" if nodes > 1 else f":{port}"
    assert seen == {str(node): f"{nodes} 3 {head}" for node in range(nodes)}


def test_training_on_two_nodes(cluster: Cluster, store: Path, parent: Path) -> None:
    text = store.with_name("text.txt")
    text.write_text("\n\n".join(f"{n} quick brown foxes jump over it " * 9 for n in range(99)))
    packing = ("data", "DATA=foxes", f"SOURCE={text}", f"TOKENIZER={parent}")
    assert espalier(store, *packing).returncode == 0
    words = ("train-gpu", f"CKPT={parent}", "DATA=foxes", "NAME=trained", "BATCH=4", "SEQLEN=32")
    few = ("TOKENS=640", "SAVE_EVERY=99", "VALID_TOKENS=512", "NODES=2")
    done, (number,) = submitted(cluster, store, *words, *few, "CONTAINER=none")
    assert done.returncode == 0, done.stderr
    assert cluster.ended(number) == "COMPLETED", log(store, number)
    assert cluster.job(number)["NodeList"] == "n[1-2]"
    manifest = json.loads((store / "checkpoints" / "trained" / "manifest.json").read_text())
    assert manifest["notes"]["processes"] == 2


def test_masks_are_learned_on_two_nodes(
    cluster: Cluster, store: Path, parent: Path, tmp_path: Path
) -> None:
    """The nodes meet for the masks and for what follows, and the first one ends last."""
    words = asked(parent, three_domains(tmp_path, parent), REFERENCES, "NAME=sheared", "NODES=2")
    after = ("RECOVER=1", "RECOVER_TOKENS=512", "RECOVER_BATCH=8", "CONTAINER=none")
    done, (number,) = submitted(cluster, store, *words, *after)
    assert done.returncode == 0, done.stderr
    assert cluster.ended(number) == "COMPLETED", log(store, number)
    assert cluster.job(number)["NodeList"] == "n[1-2]"
    manifest = json.loads((store / "checkpoints" / "sheared" / "manifest.json").read_text())
    assert manifest["notes"]["processes"] == 2


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that takes some seconds."""
    folder = tmp_path_factory.mktemp("deep")
    shape = {"num_hidden_layers": 64, "hidden_size": 128, "intermediate_size": 256}
    model = tiny_llama(folder / "deep", **shape)
    tokens = token_rows(folder / "ids.safetensors")
    return ["prune-sparsegpt", f"MODEL={model}", f"CALIBRATION={tokens}", "SUITE=none"]


def begun(store: Path) -> bool:
    return 2 in layers_written(store)


def went_on(cluster: Cluster, store: Path, number: str) -> None:
    """The job was stopped once, was requeued and has ended well, from where it had been."""
    wait_until(lambda: cluster.job(number)["Restarts"] == "1", 120)
    assert not list(store.glob("checkpoints/*/manifest.json"))
    left = len(layers_written(store))
    assert cluster.ended(number) == "COMPLETED", log(store, number)
    assert list(store.glob("checkpoints/deep-sparsegpt-0.5/manifest.json"))
    (noted,) = json.loads(next(store.glob(f"slurm/*-{number}.places")).read_text())
    assert any(place.startswith(("layer ", "tensor ")) for place in noted.values())
    told = log(store, number)
    assert "run the same command to resume" in told
    counts = [int(count) for count in re.findall(r"prune (\d+)/64", told)]
    assert counts[-1] == 64
    assert left > 2


def test_a_job_that_is_told_to_stop_is_requeued(
    cluster: Cluster, store: Path, deep: list[str]
) -> None:
    done, (number,) = submitted(cluster, store, *deep)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: begun(store))
    cluster.ask("scancel", "--batch", "--signal=TERM", number)
    went_on(cluster, store, number)


def test_a_preempted_job_is_requeued(cluster: Cluster, store: Path, deep: list[str]) -> None:
    done, (number,) = submitted(cluster, store, *deep, "PARTITION=main")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: begun(store))
    words = ["sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive"]
    urgent = cluster.ask(*words, "--output=/dev/null", "--wrap=true").strip()
    went_on(cluster, store, number)
    assert cluster.ended(urgent) == "COMPLETED"


def test_a_cancelled_job_stays_cancelled(cluster: Cluster, store: Path, deep: list[str]) -> None:
    done, (number,) = submitted(cluster, store, *deep)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: begun(store))
    cluster.ask("scancel", number)
    wait_until(cluster.idle, 120)
    assert "run the same command to resume" in log(store, number)
    assert cluster.ended(number) == "CANCELLED"
    assert cluster.job(number)["Restarts"] == "0"


def test_nothing_of_the_callers_environment_goes_with_a_job(
    cluster: Cluster, store: Path, parent: Path
) -> None:
    words = ("prune-magnitude", f"MODEL={parent}", "SUITE=none", "SBATCH_FLAGS=--hold --nice=5")
    done, (number,) = submitted(cluster, store, *words)
    assert done.returncode == 0, done.stderr
    assert cluster.job(number)["JobState"] == "PENDING"
    kept = list((cluster.folder / "controller").rglob(f"job.{number}/*"))
    assert {"environment", "script"} <= {path.name for path in kept}
    for path in [*kept, *store.glob("slurm/*")]:
        assert TOKEN.encode() not in path.read_bytes()
    cluster.ask("scancel", number)


def test_what_slurm_refuses_is_one_sentence(cluster: Cluster, store: Path, parent: Path) -> None:
    words = ("prune-magnitude", f"MODEL={parent}", "SUITE=none")
    done, _ = submitted(cluster, store, *words, "PARTITION=nowhere")
    refused(done, 2, "Slurm refuses the job prune-magnitude", "Invalid partition")
    done, _ = submitted(cluster, store, *words, "SPARSITY=2")
    refused(done, 2, "SPARSITY=2")
    assert not list(store.glob("slurm/*"))
