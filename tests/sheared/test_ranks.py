"""Sheared-LLaMA on several GPUs, played by processes: what one process learns, and nothing lost."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.contract.discovery import stage_named
from espalier.contract.manifest import read_manifest
from espalier.contract.store import Store
from espalier.host.execution import Executor
from espalier.host.plan import Request
from espalier.host.settings import Settings
from tests.contract.command import espalier, refused
from tests.contract.machines import Machines
from tests.contract.shaped import check_loads
from tests.contract.waiting import interrupted, ranks_of, started, wait_until, working_on
from tests.sheared.shearing import (
    BATCH,
    REFERENCES,
    SEQLEN,
    STEPS,
    TARGET_SHAPE,
    asked,
    parent,
    sheared,
)
from tests.unit.tiny_checkpoints import load_all

pytestmark = [pytest.mark.sheared_llama, pytest.mark.slow]

AFTER = 6
"""Steps of the training after the masks."""
WORDS = (
    "RECOVER=1", f"RECOVER_TOKENS={AFTER * BATCH * SEQLEN}", f"RECOVER_BATCH={BATCH}",
    REFERENCES, "NAME=run", "VALID=5", "MICRO_BATCH=2",
)  # fmt: skip
"""Three domains have 15 held-out rows, which two ranks cannot share equally."""
LATEST = "checkpoints/*/.run/scratch/{}/latest.pt"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, model: Path, domains: Path) -> Path:
    """By one process."""
    return sheared(tmp_path_factory.mktemp("alone"), asked(model, domains, *WORDS))


def check_same(found: Path, alone: Path) -> None:
    """The same units and rows, and the same numbers but for the order of sums."""
    check_loads(found, **TARGET_SHAPE)
    one, other = (read_manifest(place) for place in (found, alone))
    assert one.recipe.fingerprint == other.recipe.fingerprint
    assert one.pruning == other.pruning
    assert one.data
    assert other.data
    assert one.data["epochs"] == other.data["epochs"]
    assert one.ledger == other.ledger
    losses, proportions = zip(*(numbers(place) for place in (found, alone)), strict=True)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert proportions[0] == pytest.approx(proportions[1], abs=1e-5)
    mine, theirs = load_all(found), load_all(alone)
    assert mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-5) for name in theirs)
    steps = [[line["step"] for line in lines(place)] for place in (found, alone)]
    assert steps[0] == steps[1]
    shown = [[line["loss"] for line in lines(place)] for place in (found, alone)]
    assert shown[0] == pytest.approx(shown[1], abs=1e-5)


def numbers(found: Path) -> tuple[list[float], list[float]]:
    """Of every evaluation the domains' losses, and of every change the proportions."""
    scores = json.loads((found / "scores.json").read_text())
    losses = [loss for one in scores["evaluations"] for loss in one["losses"].values()]
    shares = [share for one in scores["proportions"] for share in one["proportions"].values()]
    return losses, shares


def lines(found: Path) -> list[dict[str, Any]]:
    told = map(json.loads, (found / "metrics.jsonl").read_text().splitlines())
    return [line for line in told if line["task"] != "write"]


@pytest.mark.parametrize("more", [(), ("RECOMPUTE=1", "TRACKER=wandb")])
def test_two_processes_learn_what_one_does(
    tmp_path: Path, alone: Path, model: Path, domains: Path, more: tuple[str, ...]
) -> None:
    found = sheared(tmp_path, asked(model, domains, *WORDS, "GPUS=2", *more))
    check_same(found, alone)
    assert [read_manifest(place).notes["processes"] for place in (found, alone)] == [2, 1]
    runs = list(found.glob("trackers/**/offline-run-*"))
    assert len(runs) == (2 if more else 0)  # of the masks, and of the training after them


def test_an_embedding_that_is_the_head_too_stays_one(tmp_path: Path, domains: Path) -> None:
    tied = parent(tmp_path, tie_word_embeddings=True)
    words = asked(tied, domains, *WORDS)
    one, two = (sheared(tmp_path / f"on-{n}", [*words, f"GPUS={n}"]) for n in (1, 2))
    assert "lm_head.weight" not in load_all(two)
    check_same(two, one)


def test_a_batch_that_does_not_divide_is_refused_before_any_work(
    tmp_path: Path, model: Path, domains: Path
) -> None:
    done = espalier(tmp_path, *asked(model, domains, *WORDS, "GPUS=3"))
    refused(done, 2, "a batch of 8 sequences does not divide among 3 processes")


@pytest.mark.parametrize("folder", ["composer", "recovery"])
def test_a_rank_that_is_killed_loses_nothing(
    tmp_path: Path, alone: Path, model: Path, domains: Path, folder: str
) -> None:
    """SIGKILL of one of two, as masks are learned or after them; then one goes on, then two."""
    words = asked(model, domains, *WORDS, "SAVE_EVERY=1")
    process = started(tmp_path, [*words, "GPUS=2"], LATEST.format(folder))
    os.kill(ranks_of(tmp_path)[-1], signal.SIGKILL)
    _, told = process.communicate(timeout=240)
    done = subprocess.CompletedProcess([], process.returncode, "", told)
    refused(done, 75, "of 2 was killed (SIGKILL)", "run the same command to resume from")
    wait_until(lambda: not working_on(tmp_path))
    (saved,) = re.findall(r"resume from step (\d+)\.", told)
    assert (int(saved) > STEPS) == (folder == "recovery")
    cut_short(tmp_path, [*words, "GPUS=2"], folder)
    check_same(sheared(tmp_path, words), alone)


def cut_short(store: Path, words: list[str], folder: str) -> None:
    """Ranks that cannot read a checkpoint say so once, with what to do; then it is whole again."""
    (latest,) = store.glob(LATEST.format(folder))
    file = latest.resolve()
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    refused(espalier(store, *words), 2, f"{latest} is no whole checkpoint of this run")
    file.write_bytes(whole)


def test_two_processes_that_are_stopped_go_on_from_what_one_began(
    tmp_path: Path, alone: Path, model: Path, domains: Path
) -> None:
    """Ctrl-C of one process, then of two, which stop behind the same step."""
    words = asked(model, domains, *WORDS, "SAVE_EVERY=1")
    for more, folder in (("GPUS=1", "composer"), ("GPUS=2", "recovery")):
        told = interrupted(tmp_path, [*words, more], LATEST.format(folder))
        assert re.search(r"run the same command to resume from step \d+\.$", told.strip()), told
        assert "Traceback" not in told
    check_same(sheared(tmp_path, [*words, "GPUS=2"]), alone)


def test_two_machines_are_one(tmp_path: Path, alone: Path, model: Path, domains: Path) -> None:
    """They meet for the masks, and again for the training that follows."""
    given = dict(word.split("=", 1) for word in asked(model, domains, *WORDS)[1:])
    inputs = {"model": Path(given.pop("MODEL")), "domains": Path(given.pop("DOMAIN_DATA"))}
    del given["SUITE"], given["NAME"]
    stage = stage_named("sheared-llama")
    request = Request(stage, stage.parameters.from_assignments(given), inputs, "run")
    store = Store(tmp_path)
    settings = Settings(store=store.root, gpus=1, threads=1)
    found = Executor(store, Machines(head="127.0.0.2"), settings).execute(request)
    check_same(found, alone)
    assert read_manifest(found).notes["processes"] == 2
