"""`BACKEND=jax`, the whole stage: tasks of lm-eval on a tiny model, in the image without torch."""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("maxtext")
pytest.importorskip("lm_eval")

from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.tokenizer import load_tokenizer
from eval.maxtext.spec import JaxEvalParameters
from eval.maxtext.stage import run
from eval.requests.request import Request
from tests.maxtext.machines import run_together
from tests.maxtext.plain_llama import PlainLlama, random_checkpoint
from tests.ports import free_ports

pytestmark = pytest.mark.maxtext

WORDS = ("fox", "dog", "the", "over", "lazy", "quick")
PAIRS = [{"sentence_good": f"the {w} jumps", "sentence_bad": f"jumps the {w} the"} for w in WORDS]
CHOICE = {
    "id": "1", "question": "the fox?", "answerKey": "B",
    "choices": {"text": ["quick", "lazy dog"], "label": ["A", "B"]},
}  # fmt: skip
PAGES = [{"page": "the quick brown fox jumps"}, {"page": "over the lazy dog and the fox"}]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def evaluate(
    tmp_path: Path, model: Path, tasks: dict[str, Any], text: Path | None = None, **given: str
) -> Any:
    """The stage's outcome and results; SUITE=tasks where there is no text."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, rows in tasks.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    output, scratch = tmp_path / "out", tmp_path / "scratch"
    output.mkdir()
    scratch.mkdir()
    inputs = {"model": model} | ({"data": text} if text else {"tasks": folder})
    given = given if text else {"SUITE": "tasks", **given}
    context = StageContext(inputs, output, scratch, "cpu", Progress())
    outcome = run(context, JaxEvalParameters.from_assignments(given))
    return outcome, json.loads((output / "results.json").read_text())


@pytest.mark.slow
def test_tasks_are_those_of_the_formulas(tmp_path: Path) -> None:
    (model := tmp_path / "model").mkdir()
    plain = PlainLlama(model, random_checkpoint(model))
    tasks = {"word_order": PAIRS, "arc_easy": [CHOICE], "wikitext": PAGES}
    outcome, results = evaluate(tmp_path, model, tasks, BATCH="2")
    assert "torch" not in sys.modules

    def score(sentence: str) -> float:
        ids = [0, *load_tokenizer(model).encode(sentence, add_special_tokens=False)]
        ids = np.array(ids, np.int32)
        return plain.score([Request(ids[:-1], ids[1:])])[0][0]

    right = [score(pair["sentence_good"]) > score(pair["sentence_bad"]) for pair in PAIRS]
    assert results["results"]["word_order"]["acc,none"] == pytest.approx(sum(right) / len(right))
    assert outcome.notes["results"]["word_order"] == pytest.approx(sum(right) / len(right))
    per_word = sum(score(row["page"]) for row in PAGES) / sum(
        len(row["page"].split()) for row in PAGES
    )
    found = results["results"]["wikitext"]["word_perplexity,none"]
    assert np.log(found) == pytest.approx(-per_word, rel=1e-5)
    assert results["lm_eval_version"] == version("lm_eval")
    assert results["task_hashes"].keys() == tasks.keys()
    config = results["config"]
    assert (config["backend"], config["model_dtype"], config["devices"]) == ("jax", "float32", 1)
    assert config["tokens"]["tree"] < config["tokens"]["naive"]


def test_the_perplexity_of_a_text_is_that_of_the_formulas(tmp_path: Path) -> None:
    (model := tmp_path / "model").mkdir()
    plain = PlainLlama(model, random_checkpoint(model, scale=0.05))
    (text := tmp_path / "words.txt").write_text(" ".join(WORDS * 20))
    ids = load_tokenizer(model)(text.read_text())["input_ids"]
    windows = np.array(ids[: len(ids) // 16 * 16], np.int32).reshape(-1, 16)
    outcome, results = evaluate(tmp_path, model, {}, text, SUITE="perplexity", SEQLEN="16")
    sums, _ = plain.score([Request(window[:-1], window[1:]) for window in windows])
    measured = results["results"]["perplexity/words"]
    losses = -np.array(sums) / 15
    assert np.log(measured["ppl,none"]) == pytest.approx(losses.mean(), abs=1e-5)
    error = losses.std(ddof=1) / len(losses) ** 0.5
    assert measured["ppl_stderr,none"] == pytest.approx(np.exp(losses.mean()) * error, rel=1e-3)
    assert measured["sample_len"] == len(windows) > 1
    assert outcome.data["windows_available"] == len(windows)
    assert results["config"]["tokens"]["naive"] == windows.size - len(windows)


def test_a_task_that_samples_is_refused_before_the_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model := tmp_path / "model").mkdir()
    random_checkpoint(model)
    (model / "model.safetensors").unlink()
    task = SimpleNamespace(
        config=SimpleNamespace(task="gsm8k"),
        instances=[
            SimpleNamespace(
                request_type="generate_until",
                args=("a", {"do_sample": True, "temperature": 0.7}),
            )
        ],
    )
    monkeypatch.setattr("eval.maxtext.evaluation.checked_tasks", lambda *_: {"gsm8k": task})
    with pytest.raises(InputError, match=r"do_sample=True, temperature=0\.7"):
        evaluate(tmp_path, model, {"word_order": PAIRS})


def test_a_model_that_maxtext_does_not_support_is_refused(tmp_path: Path) -> None:
    (model := tmp_path / "model").mkdir()
    random_checkpoint(model, attention_bias=True)
    with pytest.raises(InputError, match="biases of attention, which MaxText"):
        evaluate(tmp_path, model, {"word_order": PAIRS})


def test_several_machines_measure_as_one(tmp_path: Path) -> None:
    """Two of two devices each; then again, when the first alone knows what is measured already."""
    model = tmp_path / "model"
    random_checkpoint(model, scale=0.3)
    (tmp_path / "one").mkdir()
    tasks = {"blimp_adjunct_island": PAIRS, "arc_easy": [CHOICE], "wikitext": PAGES}
    _, alone = evaluate(tmp_path / "one", model, tasks, LOG_SAMPLES="1")
    folder = tmp_path / "two"
    (folder / "scratch").mkdir(parents=True)
    for measured in ((), ("blimp_adjunct_island", "wikitext")):
        parts = folder / "scratch" / "parts"
        if measured:
            (lost,) = [file for file in parts.iterdir() if "arc_easy" in file.read_text()]
            lost.unlink()
        [port] = free_ports(1)
        common = {"ESPALIER_NODES": "2", "ESPALIER_PROCESSES": "2", "ESPALIER_HEAD": "localhost"}
        common |= {"ESPALIER_PORT": str(port)}
        paths = (model, tmp_path / "one" / "rows", folder)
        words = ("tests.maxtext.one_machine", *map(str, paths))
        run_together((words, common | {"ESPALIER_NODE": str(node)}) for node in range(2))
        found = json.loads((folder / "results.json").read_text())
        assert found["config"]["devices"] == 4
        for task, scores in alone["results"].items():
            numbers = {key: value for key, value in scores.items() if isinstance(value, float)}
            same = {key: found["results"][task][key] for key in numbers}
            assert same == pytest.approx(numbers, rel=1e-5)
        assert len(list(parts.iterdir())) == len(tasks)
    samples = [
        (place / "samples.jsonl").read_text() for place in (folder, tmp_path / "one" / "out")
    ]
    assert len({text.count("\n") for text in samples}) == 1
