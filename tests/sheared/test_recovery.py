"""What masks left is trained on by Composer, with the same loading: RECOVER=1."""

import json
import re
from pathlib import Path

import pytest

from espalier.contract.manifest import read_manifest
from espalier.models.flops import training_flops
from espalier.models.shapes import Shapes, read_config
from tests.contract.command import (
    differing,
    espalier,
    refused,
    tree,
    without_times,
)
from tests.contract.shaped import check_loads
from tests.contract.waiting import struck
from tests.sheared.shearing import (
    BATCH,
    REFERENCES,
    SEQLEN,
    STEPS,
    TARGET_SHAPE,
    asked,
    sheared,
)

pytestmark = pytest.mark.sheared_llama

ROWS, AFTER = 12, 30
"""Of a step of the training after the masks, and its steps."""
RECOVERY = (
    "RECOVER=1", f"RECOVER_TOKENS={AFTER * ROWS * SEQLEN}", f"RECOVER_BATCH={ROWS}",
    "RECOVER_LR=1e-2", REFERENCES, "NAME=run", "EVAL_EVERY=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, domains: Path) -> Path:
    return sheared(tmp_path_factory.mktemp("whole"), asked(model, domains, *RECOVERY))


def test_it_goes_on_where_the_masks_stopped(whole: Path, model: Path) -> None:
    check_loads(whole, **TARGET_SHAPE)
    scores = json.loads((whole / "scores.json").read_text())
    evaluations, changes = scores["evaluations"], scores["proportions"]
    after = [*range(4, AFTER, 4), AFTER]
    assert [one["step"] for one in evaluations] == [4, STEPS, *(STEPS + step for step in after)]
    assert evaluations[-1]["loss"] < evaluations[1]["loss"] - 0.1
    steps = [change["step"] for change in changes]
    assert steps == sorted(steps)
    assert steps[-1] == STEPS + AFTER
    manifest = read_manifest(whole)
    assert manifest.data
    tokens, more = STEPS * BATCH * SEQLEN, AFTER * ROWS * SEQLEN
    flops = [training_flops(Shapes.of(read_config(path)), SEQLEN) for path in (model, whole)]
    last = manifest.ledger[-1]
    assert (last.tokens, manifest.data["tokens_seen"]) == (tokens + more, tokens + more)
    assert last.flops == pytest.approx(flops[0] * tokens + flops[1] * more)
    drawn = STEPS * BATCH + AFTER * ROWS
    assert max(manifest.data["epochs"].values()) > 1  # 120 rows are there
    assert sum(manifest.data["epochs"].values()) <= drawn
    check_steps(whole)


def check_steps(found: Path) -> None:
    """Each once, counted on from those of the masks."""
    lines = map(json.loads, (found / "metrics.jsonl").read_text().splitlines())
    told = [(line["task"], line["step"]) for line in lines if line["task"] != "write"]
    shear = [("shear", step) for step in range(1, STEPS + 1)]
    assert told == [*shear, *(("recover", STEPS + step) for step in range(1, AFTER + 1))]


def test_killed_after_the_masks_it_gives_the_same_bytes(
    tmp_path: Path, whole: Path, model: Path, domains: Path
) -> None:
    """Layers that are computed again for their gradients change none either."""
    words = asked(model, domains, *RECOVERY, "SAVE_EVERY=3", "RECOMPUTE=1")
    told = struck(tmp_path, words, "checkpoints/*/.run/scratch/recovery/latest.pt")
    (step,) = re.findall(r"run the same command to resume from step (\d+)\.$", told.strip())
    assert int(step) > STEPS
    found = sheared(tmp_path, words)
    one, other = (without_times(tree(place)) for place in (found, whole))
    assert {"model.safetensors", "scores.json", "losses.png"} <= one.keys()
    assert not differing(one, other)
    check_steps(found)


def test_words_of_a_training_that_is_not_asked_for(
    tmp_path: Path, model: Path, domains: Path
) -> None:
    for words, sentence in (
        (("RECOVER_TOKENS=1M",), "go with RECOVER=1"),
        (("RECOVER=1", "RECOVER_BATCH=10", "MICRO_BATCH=4"), "does not divide RECOVER_BATCH=10"),
        (("RECOVER=1", "RECOVER_LR=0"), "RECOVER_LR"),
    ):
        refused(espalier(tmp_path, *asked(model, domains, *words)), 2, sentence)
    assert not list(tmp_path.rglob("*.safetensors"))
