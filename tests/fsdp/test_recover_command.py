"""`make recover` as a user runs it: what it publishes, and that nothing that happens changes it."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from espalier.contract.manifest import pruning_of, read_manifest
from tests.contract.command import (
    command,
    differing,
    espalier,
    quiet_environment,
    refused,
    tree,
    without_times,
)
from tests.contract.waiting import wait_for_steps, working_on
from tests.fsdp.recoveries import instructions, text
from tests.tiny import tiny_llama
from tests.tiny_pruned import PADDED, tiny_padded
from tests.unit.tiny_checkpoints import load_all

pytestmark = [pytest.mark.fsdp, pytest.mark.slow]

WORDS = ("BATCH=4", "SEQLEN=16", "LR=0.03", "TOKENS=1280", "EPOCHS=9", "VALID=4", "NAME=run")
STEPS = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text(tmp_path_factory.mktemp("data") / "words.txt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pruned: Path, data: Path) -> Path:
    """A store on which a pruned model was recovered at once."""
    store = tmp_path_factory.mktemp("store")
    done = espalier(store, *words(pruned, data))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{store}/checkpoints/run\n"
    assert f"{STEPS} steps of 4 sequences: 1,280 tokens" in done.stderr
    return store


def words(model: Path, data: Path, *more: str) -> list[str]:
    return ["recover", f"CKPT={model}", f"DATA={data}", *WORDS, *more]


def test_what_is_published(whole: Path, pruned: Path, data: Path) -> None:
    result = whole / "checkpoints" / "run"
    manifest, before = read_manifest(result), pruning_of(pruned)
    assert manifest.pruning == before
    assert manifest.checks["merged_logits_difference"] < 1e-5
    assert manifest.checks["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert manifest.training is not None
    assert manifest.training["tokens"] == manifest.training["steps"] * 64 == 1280
    assert manifest.training["policy"] == "preserve"
    assert manifest.training["flops"] == 1280 * manifest.training["flops_per_token"]
    assert [entry.kind for entry in manifest.ledger] == ["pretraining", "training"]
    assert manifest.ledger[-1].tokens == 1280
    assert manifest.data is not None
    assert (manifest.data["name"], manifest.data["kind"]) == ("words.txt", "text")
    assert len(manifest.data["ids_sha256"]) == 64
    assert manifest.parents == [pruned.name, data.name]
    assert {path.name for path in result.iterdir()} >= {"loss.png", "loss.svg", "metrics.jsonl"}
    for name, weight in load_all(pruned).items():
        assert ((load_all(result)[name] == 0) == (weight == 0)).all(), name
    shown = espalier(whole, "show", "CKPT=run").stdout
    assert "pattern" in shown
    again = espalier(whole, *words(pruned, data, "MICRO_BATCH=1"))
    assert "is done already" in again.stderr  # how it is run is no part of it


def test_a_killed_run_gives_the_same_bytes(
    tmp_path: Path, pruned: Path, data: Path, whole: Path
) -> None:
    """SIGKILL of the stage between two saves, SIGTERM of the command, and then to the end."""
    asked = words(pruned, data, "SAVE_EVERY=3")
    for number, after in ((signal.SIGKILL, 7), (signal.SIGTERM, 12)):
        process = subprocess.Popen(
            command(tmp_path, *asked), env=quiet_environment(), stderr=subprocess.PIPE, text=True
        )
        wait_for_steps(tmp_path, after, process)
        struck = working_on(tmp_path) if number == signal.SIGKILL else [process.pid]
        assert struck
        for pid in struck:
            os.kill(pid, number)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 75, told
        last = told.splitlines()[-1]
        assert re.search(r"run the same command to resume from step \d+\.$", last)
    assert re.search(r"1,280 tokens, from step [69]\n", told)  # what the killed one had saved
    done = espalier(tmp_path, *asked)
    assert done.returncode == 0, done.stderr
    assert re.search(r"1,280 tokens, from step 1\d", done.stderr)
    mine, theirs = (
        without_times(tree(store / "checkpoints" / "run")) for store in (tmp_path, whole)
    )
    assert differing(mine, theirs) == []
    assert (tmp_path / "checkpoints/run/metrics.jsonl").read_text().count("\n") == STEPS


def test_a_padded_model_on_instructions(tmp_path: Path) -> None:
    model = tiny_padded(tmp_path / "padded", max_position_embeddings=512)
    rows = instructions(tmp_path / "rows.json")
    given = ("BATCH=8", "SEQLEN=300", "EPOCHS=1", "TRACKER=none")
    done = espalier(tmp_path, "recover", f"CKPT={model}", f"DATA={rows}", *given)
    assert done.returncode == 0, done.stderr
    result = tmp_path / "checkpoints" / "padded-recover-1ep"
    manifest = read_manifest(result)
    assert manifest.pruning == PADDED
    assert manifest.training is not None
    assert manifest.data is not None
    assert manifest.training["tokens"] == manifest.data["tokens_seen"]
    assert manifest.data["kind"] == "instructions"
    assert "2 of 24 sequences are held out" in done.stderr
    assert "parameters are trained beside the model's" in done.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("ARCH=x",), "ARCH and MODEL"),
        (("TOKENIZER=x",), "TOKENIZER goes with ARCH"),
        (("DATA=nothing.json",), "nothing.json does not exist"),
        (("DATA=nothing",), "DATA=nothing is not known; give one of c4"),
        (("R=0",), "R=0"),
        (("R=100",), "R=100 is more than the rank"),
        (("DROPOUT=1",), "DROPOUT=1"),
        (("INIT=random",), "INIT is not a parameter here"),
        (("MICRO_BATCH=3",), "MICRO_BATCH=3 does not divide BATCH=4; give MICRO_BATCH=2"),
    ],
)
def test_refusals(
    tmp_path: Path, parent: Path, data: Path, given: tuple[str, ...], says: str
) -> None:
    asked = dict(word.split("=", 1) for word in (*words(parent, data)[1:], *given))
    if "ARCH" in asked:
        del asked["CKPT"]
        says = "ARCH is not used: recover needs weights to start from"
    done = espalier(tmp_path, "recover", *(f"{key}={value}" for key, value in asked.items()))
    refused(done, 2, says)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_a_quantized_model_is_refused(tmp_path: Path, data: Path) -> None:
    model = tiny_llama(tmp_path / "quantized")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq"}
    (model / "config.json").write_text(json.dumps(config))
    done = espalier(tmp_path, *words(model, data))
    refused(done, 2, "the checkpoint is quantized")


def test_a_run_that_is_only_shown(tmp_path: Path, parent: Path, data: Path) -> None:
    shown = espalier(tmp_path / "store", *words(parent, data, "DRY_RUN=1"))
    assert shown.returncode == 0, shown.stderr
    assert "(would run)" in shown.stdout
    assert "at the peak" in shown.stdout
    assert not (tmp_path / "store").exists()
