"""SLEB's order and losses on stories260K, by the reference's own code, for both barriers."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
from espalier.models.decoder import Decoder
from espalier.pruning.depth.greedy import remove_one_by_one
from espalier.pruning.depth.samples import Sample
from methods.sleb.algorithm import mean_loss, order_of_the_reference
from methods.sleb.spec import SlebScoreParameters
from tests.contract.command import espalier

pytestmark = pytest.mark.shared
TOKENS = 32 * 256
BARRIERS = {"barriers-1-1": (1, 1), "barriers-0-0": (0, 0)}


@pytest.fixture(scope="module")
def expected(shared: Path) -> dict[str, Any]:
    file = shared / "reference" / "stories260k" / "sleb.json"
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("batch", [1, None])
@pytest.mark.parametrize("job", BARRIERS)
def test_order_and_losses(
    tmp_path: Path, shared: Path, expected: dict[str, Any], job: str, batch: int | None
) -> None:
    model = shared / "models" / "stories260k"
    ids = load_file(shared / "reference" / "stories260k" / "calibration.safetensors")[
        "input_ids"
    ].long()
    context = StageContext({"model": model}, tmp_path, tmp_path / "scratch", "cpu", Progress())
    early, latter = BARRIERS[job]
    removal = remove_one_by_one(
        context,
        Decoder(model, "cpu"),
        [Sample(row, 255) for row in ids],
        candidates=range(early, 5 - latter),
        count=3,
        loss=partial(mean_loss, tokens=256),
        batch=batch,
    )
    assert removal.unpruned * TOKENS == pytest.approx(expected["meta"]["dense"]["loss"], rel=1e-5)
    steps = expected["jobs"][job]["steps"]
    assert removal.order == expected["jobs"][job]["removal_order"]
    for past, step in zip(removal.rounds, steps, strict=True):
        found = {str(layer): loss * TOKENS for layer, loss in past.losses.items() if loss}
        assert found == pytest.approx(step["candidate_losses"], rel=1e-5)


def test_what_the_reference_does_where_nothing_is_left_to_try() -> None:
    assert order_of_the_reference([2, 1, 3], 5, 4) == [2, 1, 3, 4]
    quirk = SlebScoreParameters.from_assignments({"LAYERS": "1", "REFERENCE": "1"})
    assert quirk.removals(5) == 4


@pytest.mark.minitron  # the stages draw
@pytest.mark.parametrize("job", BARRIERS)
def test_perplexity_of_the_checkpoints(
    tmp_path: Path, shared: Path, expected: dict[str, Any], job: str
) -> None:
    """As a user gets them; the smaller removals need no second search."""
    early, latter = BARRIERS[job]
    model = f"MODEL={shared / 'models' / 'stories260k'}"
    reference = shared / "reference" / "stories260k"
    barriers = (f"EARLY_BARRIER={early}", f"LATTER_BARRIER={latter}")
    text = f"CALIBRATION={reference / 'calibration.safetensors'}"
    scored = espalier(tmp_path, "score-sleb", model, text, "LAYERS=2", "SAMPLES=32", *barriers)
    assert scored.returncode == 0, scored.stderr
    scores = f"SCORES={scored.stdout.strip()}"
    windows = (f"DATA={reference / 'valid.safetensors'}", "SUITE=perplexity")
    for left, step in zip((4, 3, 2), expected["jobs"][job]["steps"], strict=True):
        done = espalier(tmp_path, "prune-sleb", model, scores, f"LAYERS={left}", *windows)
        assert done.returncode == 0, done.stderr
        checkpoint = Path(done.stdout.strip())
        path = tmp_path / "evals" / checkpoint.name / "perplexity" / "results.json"
        found = json.loads(path.read_text())["results"]["perplexity/valid"]["ppl,none"]
        assert found == pytest.approx(step["ppl_valid"], rel=1e-3)
    assert len(list((tmp_path / "scores" / "stories260k").iterdir())) == 1
