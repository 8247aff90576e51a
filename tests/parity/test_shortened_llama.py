"""Shortened-LLaMA's scores and orders on stories260K, by the reference's own scripts."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the stages draw")

from espalier.contract.discovery import stage_named
from espalier.contract.manifest import read_manifest
from espalier.contract.progress import Progress
from espalier.contract.pruned import Uniform
from espalier.contract.stage import StageContext
from methods.shortened_llama.protection import removed, removed_by_the_reference
from methods.shortened_llama.score_stage import run
from tests.contract.command import espalier

pytestmark = [pytest.mark.shared, pytest.mark.minitron]
SETS = {"32x256": ("32", "256"), "10x128": ("10", "128")}
JOBS = [
    *(f"{how}-{tokens}" for how in ("ppl", "taylor-l1", "taylor-l2") for tokens in SETS),
    *("magnitude-l1", "magnitude-l2"),
]


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, Any]:
    file = shared / "reference" / "stories260k" / "shortened_llama.json"
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def words(job: str) -> dict[str, str]:
    """The assignments that a job of the reference stands for."""
    importance, *rest = job.split("-")
    samples, seqlen = SETS.get(rest[-1], ("", ""))
    given = {"IMPORTANCE": importance, "SAMPLES": samples, "SEQLEN": seqlen}
    given["NORM"] = next((word for word in rest if word in ("l1", "l2")), "")
    return {name: value for name, value in given.items() if value}


def scale(job: str) -> float:
    """The reference adds gradients of batches up, here they are averaged: it had 32 or 1."""
    if not job.startswith("taylor") or not job.endswith("32x256"):
        return 1.0
    return 32.0 if "l1" in job else 32.0**2


@pytest.mark.parametrize("job", JOBS)
def test_scores_and_order(
    tmp_path: Path, shared: Path, reference: dict[str, Any], job: str
) -> None:
    inputs = {
        "model": shared / "models" / "stories260k",
        "calibration": shared / "reference" / "stories260k" / "calibration.safetensors",
    }
    context = StageContext(inputs, tmp_path, tmp_path / "scratch", "cpu", Progress())
    run(context, stage_named("score-shortened-llama").parameters.from_assignments(words(job)))
    found, expected = json.loads((tmp_path / "scores.json").read_text()), reference["jobs"][job]
    scaled = [score * scale(job) for score in found["block_score"]]
    assert scaled == pytest.approx(expected["block_score"], rel=1e-4)
    assert found["order"] == expected["removal_order"]
    for index, name in enumerate(reference["meta"]["weight_score_columns"]):
        if "weight_score" in expected:
            scaled = [score * scale(job) for score in found["weight_score"][name]]
            by_layer = [scores[index] for scores in expected["weight_score"]]
            assert scaled == pytest.approx(by_layer, rel=1e-4), name


@pytest.mark.parametrize("job", JOBS)
def test_which_blocks_are_left(reference: dict[str, Any], job: str) -> None:
    """With the order as it is, and where every block is protected."""
    order = reference["jobs"][job]["removal_order"]
    for count in (1, 2, 3):
        left = reference["jobs"][job]["without_heuristic"][f"remove_{count}"]["blocks_left"]
        assert sorted({*range(5)} - {*removed(order, count, "none")}) == left
        gone = removed_by_the_reference(order, count, "published")
        quirk = reference["jobs"]["ppl-32x256"]["with_heuristic"][f"remove_{count}"]
        assert sorted({*range(5)} - {*gone}) == quirk["blocks_left"]


@pytest.mark.parametrize(
    ("rule", "protect"), [("without_heuristic", "PROTECT=none"), ("with_heuristic", "REFERENCE=1")]
)
def test_perplexity_of_the_checkpoints(
    tmp_path: Path, shared: Path, reference: dict[str, Any], rule: str, protect: str
) -> None:
    folder, job = shared / "reference" / "stories260k", "ppl-32x256"
    text = f"CALIBRATION={folder / 'calibration.safetensors'}"
    model = f"MODEL={shared / 'models' / 'stories260k'}"
    windows = (f"DATA={folder / 'valid.safetensors'}", "SUITE=perplexity")
    for count in (1, 3):
        expected = reference["jobs"][job][rule][f"remove_{count}"]
        given = (model, text, "SAMPLES=32", "SEQLEN=256", f"LAYERS={5 - count}", protect)
        done = espalier(tmp_path, "prune-shortened-llama", *given, *windows)
        assert done.returncode == 0, done.stderr
        checkpoint = Path(done.stdout.strip())
        account = read_manifest(checkpoint).pruning
        assert isinstance(account, Uniform)
        assert account.kept.layers == tuple(expected["blocks_left"])
        path = tmp_path / "evals" / checkpoint.name / "perplexity" / "results.json"
        found = json.loads(path.read_text())["results"]["perplexity/valid"]["ppl,none"]
        assert found == pytest.approx(expected["ppl_valid"], rel=1e-3)
