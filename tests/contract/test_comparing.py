"""`make compare-harness`: one model by both releases of lm-eval, each in its image."""

import json
from pathlib import Path

import pytest

from eval.samples.sample import read_samples
from tests.contract import tiny_tasks
from tests.contract.command import espalier, refused
from tests.contract.tiny_tasks import Rows, write_tasks
from tests.tiny import tiny_llama
from tests.unit.test_planned import let_tokenizer_begin

TASKS: dict[str, Rows] = {
    **tiny_tasks.TASKS,
    "boolq": [{"passage": "the fox", "question": "is it", "label": 1, "idx": 0}] * 2,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answers differ, and another whose tokenizer begins texts; rows of tasks."""
    store = tmp_path_factory.mktemp("store")
    for name in ("plain", "begins"):
        tiny_llama(store / name, initializer_range=0.3)
    let_tokenizer_begin(store / "begins")
    write_tasks(store / "rows", TASKS)
    return store


def comparison(store: Path, model: str, *words: str) -> tuple[Path, str]:
    """What is published last, and the table."""
    given = (f"CKPT={store / model}", f"TASK_DATA={store / 'rows'}", "RUNTIME=local", *words)
    done = espalier(store, "compare-harness", *given)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return Path(done.stdout.splitlines()[-1]), " ".join(done.stderr.split())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_why_two_releases_differ(store: Path) -> None:
    place, table = comparison(store, "plain")
    assert place == store / "evals" / "plain" / "tasks-samples"
    old, new = (read_samples(place.parent / f"{kind}tasks-samples") for kind in ("legacy-", ""))
    assert old.keys() == new.keys() == TASKS.keys()
    assert "legacy-tasks-samples ┃ tasks-samples" in table
    assert "lm-eval 0.3.0" in table
    assert "lm-eval 0.4.13, hf" in table
    # 0.4.13 puts a blank before a sentence, and the begin token where 0.3.0 puts the end token.
    assert "word_order: continuations: row 1, 'the fox jumps' against ' the fox jumps'" in table
    assert "word_order: begin token: row 1, '</s>' against '<s>'" in table
    for old_one, new_one in zip(old["arc_easy"], new["arc_easy"], strict=True):
        assert old_one.context == new_one.context
        assert old_one.tokens == new_one.tokens
        assert old_one.loglikelihood == pytest.approx(new_one.loglikelihood, abs=1e-3)
    assert "arc_easy │ acc │" in table
    assert "3 │ 0 │" in table
    assert "nothing differs" in table
    again = espalier(store, "compare-evals", "A=plain/legacy-tasks-samples", f"B={place}")
    assert again.returncode == 0, again.stderr
    assert "continuations 6, begin token 6" in " ".join(again.stdout.split())
    _, table = comparison(store, "begins", "TASKS=arc_easy", "LIMIT=2")
    assert "arc_easy: begin token: row 1, none against '<s>'" in table
    assert "begin token 2" in table


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_that_the_old_image_cannot_read(store: Path) -> None:
    config = tiny_llama(store / "new") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "of_tomorrow"}))
    words = (f"CKPT={store / 'new'}", f"TASK_DATA={store / 'rows'}", "RUNTIME=local")
    done = espalier(store, "compare-harness", *words)
    assert done.returncode == 2, done.stderr
    assert "cannot be loaded by transformers 5.19" in done.stderr
    assert not (store / "evals" / "new").exists() or not list((store / "evals").glob("new/tasks*"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "give TASK_DATA=<folder of <task>.jsonl>"),
        (("TASK_DATA={}", "SUITE=quick"), "SUITE=quick measures a text"),
        (("TASK_DATA={}", "TASKS=winogrande:5"), "winogrande with 5 examples cannot be compared"),
        (("TASK_DATA={}", "SUITE=collection"), "examples cannot be compared"),
        (("TASK_DATA={}", "TASKS=no:much:x:y"), "is not <task>"),
        (("TASK_DATA={}", "BACKEND=torch"), "BACKEND is not a parameter here"),
        (("TASK_DATA={}", "LEGACY=1"), "LEGACY is not a parameter here"),
        (("TASK_DATA={}/nowhere",), "nowhere does not exist"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(
    store: Path, words: tuple[str, ...], why: str
) -> None:
    given = [word.format(store / "rows") for word in words]
    refused(espalier(store, "compare-harness", f"CKPT={store / 'plain'}", *given), 2, why)


def test_a_task_of_one_release_alone_is_refused_at_once(store: Path, tmp_path: Path) -> None:
    (tmp_path / "truthfulqa_mc1.jsonl").write_text('{"question": "a"}\n')
    done = espalier(
        store, "compare-harness", f"CKPT={store / 'plain'}", f"TASK_DATA={tmp_path}", "LIMIT=1"
    )
    refused(done, 2, "truthfulqa_mc1 is not a task of both lm-eval 0.4.13 and 0.3.0")


@pytest.mark.parametrize("words", [(), ("A=plain/nothing", "B=plain/nothing")])
def test_what_is_no_evaluation_is_refused(store: Path, words: tuple[str, ...]) -> None:
    refused(espalier(store, "compare-evals", *words), 2, "is no evaluation; give a path")


def test_samples_are_of_tasks(store: Path) -> None:
    words = (f"CKPT={store / 'plain'}", "LOG_SAMPLES=1", f"DATA={store / 'rows'}")
    refused(espalier(store, "eval", *words), 2, "LOG_SAMPLES=1 writes what tasks ask")


def test_both_evaluations_are_one_plan(store: Path) -> None:
    """The older release first: it refuses more."""
    words = (f"CKPT={store / 'plain'}", f"TASK_DATA={store / 'rows'}", "DRY_RUN=1")
    shown = espalier(store, "compare-harness", *words)
    assert shown.returncode == 0, shown.stderr
    stages = [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("stage")]
    assert stages == ["eval-legacy", "eval"]
    assert shown.stdout.count("LOG_SAMPLES=True") == 2
