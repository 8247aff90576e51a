"""`make train-gpu` on one and two ranks: the same losses, whatever happens in between."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.contract.manifest import read_manifest
from tests.contract.command import command, espalier, quiet_environment, refused
from tests.contract.waiting import wait_for_steps, wait_until, working_on
from tests.unit.tiny_checkpoints import load_all

pytestmark = [pytest.mark.fsdp, pytest.mark.slow]

WORDS = ("BATCH=8", "SEQLEN=32", "LR=0.003", "TOKENS=5120", "VALID_TOKENS=512")
STEPS = 20


def words(model: Path, data: Path, name: str, *more: str) -> list[str]:
    return ["train-gpu", f"CKPT={model}", f"DATA={data}", f"NAME={name}", *WORDS, *more]


def trained(store: Path, model: Path, data: Path, name: str, *more: str) -> list[dict[str, Any]]:
    done = espalier(store, *words(model, data, name, *more))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{store}/checkpoints/{name}\n"
    assert f"{STEPS} steps of 256 tokens: 5,120 tokens" in done.stderr
    return rows(store / "checkpoints" / name)


def rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def alone(store: Path, parent: Path, data: Path) -> list[dict[str, Any]]:
    return trained(store, parent, data, "alone")


@pytest.mark.parametrize("how", [(), ("MICRO_BATCH=1",), ("REPLICAS=2",)])
def test_two_ranks_give_the_losses_of_one(
    store: Path, parent: Path, data: Path, alone: list[dict[str, Any]], how: tuple[str, ...]
) -> None:
    name = "two" + "".join(how).lower().replace("=", "")
    two = trained(store, parent, data, name, "GPUS=2", *how)
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in two] == pytest.approx([row[key] for row in alone], abs=1e-4)
    assert two[-1]["valid_loss"] == pytest.approx(alone[-1]["valid_loss"], abs=1e-4)
    manifest = read_manifest(store / "checkpoints" / name)
    assert manifest.notes["processes"] == 2
    assert manifest.fingerprint != ""
    assert manifest.recipe.fingerprint == read_manifest(store / "checkpoints" / "alone").fingerprint


def test_a_stopped_run_goes_on_with_another_number_of_ranks(
    tmp_path: Path, parent: Path, data: Path, alone: list[dict[str, Any]]
) -> None:
    """SIGTERM on two ranks, SIGTERM on one, then two to the end; each one exits with 75."""
    for ranks, after in ((2, 4), (1, 9)):
        process = subprocess.Popen(
            command(tmp_path, *words(parent, data, "run", f"GPUS={ranks}")),
            env=quiet_environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_steps(tmp_path, after, process)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 75, told
        last = told.splitlines()[-1]
        assert re.fullmatch(
            r"espalier: interrupted; run the same command to resume from step \d+\.", last
        )
        assert "Traceback" not in told
    found = trained(tmp_path, parent, data, "run", "GPUS=2")
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    assert [row["tokens"] for row in found] == [256 * step for step in range(1, STEPS + 1)]
    assert [row["loss"] for row in found] == pytest.approx([r["loss"] for r in alone], abs=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_continues(
    tmp_path: Path, inputs: dict[str, Path], alone: list[dict[str, Any]], store: Path, ranks: int
) -> None:
    """SIGKILL of the command at a step between two saves."""
    parent, data = inputs["model"], inputs["data"]
    process = subprocess.Popen(
        command(tmp_path, *words(parent, data, "run", f"GPUS={ranks}", "SAVE_EVERY=3")),
        env=quiet_environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_steps(tmp_path, 8, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not working_on(tmp_path), 60)
    found = trained(tmp_path, parent, data, "run", f"GPUS={ranks}", "SAVE_EVERY=3")
    expected = [row["loss"] for row in alone]
    if ranks == 1:
        assert [row["loss"] for row in found] == expected
        mine, theirs = (
            load_all(s / "checkpoints" / n) for s, n in ((tmp_path, "run"), (store, "alone"))
        )
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    else:
        assert [row["loss"] for row in found] == pytest.approx(expected, abs=1e-5)


def test_a_rank_that_refuses_ends_all_with_one_sentence(
    tmp_path: Path, parent: Path, data: Path
) -> None:
    import shutil

    damaged = shutil.copytree(data, tmp_path / "damaged")
    shard = sorted(damaged.glob("train-*.tokens"))[1]
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    done = espalier(tmp_path / "store", *words(parent, damaged, "x", "GPUS=2"))
    refused(done, 2, shard.name, "is not what tokens.json says")
    assert not list((tmp_path / "store").glob("checkpoints/x*"))
