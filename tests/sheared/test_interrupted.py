"""Sheared-LLaMA stopped and killed on its way: the same bytes, and nothing of a checkpoint runs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.command import (
    differing,
    espalier,
    refused,
    tree,
    without_times,
)
from tests.contract.waiting import interrupted, struck
from tests.sheared.shearing import BATCH, REFERENCES, SEQLEN, asked, sheared

pytestmark = pytest.mark.sheared_llama

CHECKPOINT = "checkpoints/*/.run/scratch/composer/latest.pt"
MANY = 60
"""Steps of a run that is stopped on its way."""


def long(model: Path, domains: Path, *words: str) -> list[str]:
    tokens = f"TOKENS={MANY * BATCH * SEQLEN}"
    given = (tokens, REFERENCES, "NAME=run", "EVAL_EVERY=20", *words)
    return asked(model, domains, *given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, domains: Path) -> Path:
    """A longer run that nothing stopped."""
    return sheared(tmp_path_factory.mktemp("whole"), long(model, domains))


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, model: Path, domains: Path) -> Path:
    """The store of the same run, whose stage was killed by SIGKILL in the middle."""
    store = tmp_path_factory.mktemp("left")
    told = struck(store, long(model, domains, "SAVE_EVERY=7"), CHECKPOINT)
    assert re.search(r"run the same command to resume from step \d+\.$", told.strip())
    return store


@pytest.fixture
def killed(left: Path, tmp_path: Path) -> Path:
    """Another such store."""
    return Path(shutil.copytree(left, tmp_path / "killed", symlinks=True))


def check_same(found: Path, whole: Path) -> None:
    one, other = (without_times(tree(place)) for place in (found, whole))
    assert {"model.safetensors", "scores.json", "losses.png"} <= one.keys()
    assert not differing(one, other)


def test_a_killed_run_gives_the_same_bytes(
    killed: Path, whole: Path, model: Path, domains: Path
) -> None:
    words = long(model, domains, "SAVE_EVERY=7")
    done = espalier(killed, *words)
    assert done.returncode == 0, done.stderr
    check_same(killed / "checkpoints" / "run", whole)
    lines = map(json.loads, (killed / "checkpoints/run/metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["task"] == "shear"] == [*range(1, MANY + 1)]
    again = espalier(killed, *words)
    assert again.returncode == 0
    assert "is done already" in again.stderr


def test_a_stopped_run_gives_the_same_bytes(
    tmp_path: Path, whole: Path, model: Path, domains: Path
) -> None:
    """By Ctrl-C, which ends it in 75, between two evaluations; a tracker changes nothing.

    Nor does a store whose name would be a query, a fragment or a pattern in Composer's paths.
    """
    words = long(model, domains, "SAVE_EVERY=3", "TRACKER=tensorboard")
    store = tmp_path / "it's {50%} #1?"
    told = interrupted(store, words, CHECKPOINT)
    assert re.search(r"run the same command to resume from step \d+\.$", told.strip()), told
    found = sheared(store, words)
    check_same(found, whole)
    assert list(tmp_path.iterdir()) == [store]
    assert list(found.glob("trackers/tensorboard/**/events.out.tfevents.*"))


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_a_checkpoint_that_is_not_the_runs_own_or_cut_short(
    killed: Path, whole: Path, model: Path, domains: Path
) -> None:
    """Nothing in it runs, and what the sentence asks for helps."""
    words = long(model, domains, "SAVE_EVERY=7")
    (latest,) = killed.glob(CHECKPOINT)
    file, ran = latest.resolve(), killed / "ran"
    before = file.read_bytes()
    torch.save({"state": Planted(ran), "rng": []}, file)
    for content in (file.read_bytes(), before[:-100]):
        file.write_bytes(content)
        refused(
            espalier(killed, *words), 2, "is no whole checkpoint", f"; remove {latest.parent} to"
        )
        assert not ran.exists()
    shutil.rmtree(latest.parent)
    check_same(sheared(killed, words), whole)


def test_a_file_in_the_place_of_the_link_is_not_read(
    killed: Path, whole: Path, model: Path, domains: Path
) -> None:
    (latest,) = killed.glob(CHECKPOINT)
    ran = killed / "ran"
    latest.unlink()
    torch.save({"state": Planted(ran), "rng": []}, latest)
    check_same(sheared(killed, long(model, domains, "SAVE_EVERY=7")), whole)
    assert not ran.exists()
