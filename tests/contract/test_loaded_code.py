"""All of our code that a stage loads is in the hash of its code: stages run, and what they load."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from espalier.contract.code import NOT_FINGERPRINTED, bare, hashed_files, stage_modules
from espalier.contract.discovery import stage_named
from espalier.contract.paths import ROOT
from tests.contract.loaded import loaded_by
from tests.fsdp.tiny_runs import SMALL, token_data
from tests.tiny import tiny_llama, token_rows

Run = Callable[..., Path]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "tiny")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return token_rows(tmp_path / "ids.safetensors")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a stage, see that all it loaded was hashed, and give its output."""

    def checked(
        name: str, given: Mapping[str, Any], inputs: Mapping[str, Path], output: str = "out"
    ) -> Path:
        stage, place = stage_named(name), tmp_path / output
        loaded = loaded_by(stage, given, inputs, place)
        assert stage.entry.partition(":")[0] in loaded
        unseen = loaded - set(hashed_files(*stage_modules(stage)))
        unseen = {name for name in unseen if not _is_empty(name)}
        assert unseen <= described_only(), f"{name} loads what is not hashed"
        return place

    return checked


def described_only() -> set[str]:
    """What is not hashed on purpose, and what only that loads."""
    found = set(NOT_FINGERPRINTED)
    for name in NOT_FINGERPRINTED:
        text = (ROOT / name.replace(".", "/")).with_suffix(".py")
        if text.is_file():
            found |= set(hashed_files(*_imported(text)))
    return found


def _imported(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("from espalier.")]


def _is_empty(name: str) -> bool:
    """Whether a package's `__init__` has nothing but a docstring."""
    path = ROOT / name.replace(".", "/") / "__init__.py"
    return path.is_file() and not bare(path.read_text())


@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt"])
def test_masked_pruning(run: Run, model: Path, tokens: Path, name: str) -> None:
    inputs = {"model": model} | ({} if name == "magnitude" else {"calibration": tokens})
    run(name, {}, inputs)


def test_texts_and_tokens(run: Run, model: Path) -> None:
    text = run("corpus", {}, {}, "text")
    run("data", {"tokens": 10_000}, {"text": text, "tokenizer": model}, "tokens")
    run("grow", {"steps": 1}, {"data": text}, "grown")
    run("adopt", {}, {"source": model}, "adopted")


def test_evaluation(run: Run, model: Path, tokens: Path, tmp_path: Path) -> None:
    run("eval", {}, {"model": model, "data": tokens, "tasks": rows(tmp_path)})


@pytest.mark.wanda
def test_legacy_evaluation(run: Run, model: Path, tokens: Path, tmp_path: Path) -> None:
    run("eval-legacy", {}, {"model": model, "data": tokens, "tasks": rows(tmp_path)})


def rows(folder: Path) -> Path:
    """A task of minimal pairs, so that the harness runs too."""
    (folder / "tasks").mkdir()
    pair = {"sentence_good": "the quick fox", "sentence_bad": "the fox quick"}
    (folder / "tasks" / "pairs.jsonl").write_text(2 * (json.dumps(pair) + "\n"))
    return folder / "tasks"


@pytest.mark.minitron
def test_structured_pruning(run: Run, model: Path, tokens: Path) -> None:
    measured = {"model": model, "calibration": tokens}
    influence = run("score-shortgpt", {}, measured, "influence")
    depth = run("score-minitron-depth", {"layers": "2"}, measured, "depth")
    width = run("score-minitron-width", {}, measured, "width")
    run("shortgpt", {"layers": 2}, {"model": model, "scores": influence}, "a")
    order = run("score-sleb", {"layers": 2}, measured, "order")
    run("sleb", {"layers": 2}, {"model": model, "scores": order}, "c")
    blocks = run(
        "score-shortened-llama", {"importance": "taylor", "seqlen": 64}, measured, "blocks"
    )
    run("shortened-llama", {"layers": 2}, {"model": model, "scores": blocks}, "d")
    scores = {"model": model, "depth_scores": depth, "width_scores": width}
    run("minitron", {"layers": 2, "hidden": 24}, scores, "b")


@pytest.mark.fsdp
def test_training(run: Run, model: Path, tmp_path: Path) -> None:
    data = token_data(tmp_path / "walks", model)
    given = {**SMALL, "tokens": 256, "tracker": "tensorboard"}
    run("train-gpu", given, {"model": model, "data": data, "teacher": model})
    given = {"batch": 4, "seqlen": 16, "tokens": 256}
    run("recover", given, {"model": model, "examples": data, "teacher": model}, "recovered")


@pytest.mark.parametrize(
    ("stage", "module"),
    [
        ("eval", "eval.harness"),
        ("eval", "eval.tasks"),
        ("eval-legacy", "eval.legacy"),
        ("eval-jax", "eval.token_lm"),
        ("eval-jax", "training.maxtext_model.trees"),
        ("train-gpu", "training.gpu_fsdp.worker"),
        ("recover", "training.recover.dropout"),
        ("train-tpu", "training.maxtext_model.model"),
        ("fetch", "models.toml"),
        ("score-minitron-depth", "methods.minitron.harness"),
    ],
)
def test_what_is_loaded_by_name_is_hashed(stage: str, module: str) -> None:
    assert module in hashed_files(*stage_modules(stage_named(stage)))
