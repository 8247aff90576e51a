"""What suites are made of, and the words that tasks are asked for by."""

from pathlib import Path
from typing import get_args

import pytest

from espalier.contract.code import hashed_files
from espalier.contract.paths import ROOT
from espalier.errors import InputError
from eval.spec import MEASURES, EvalParameters
from eval.suites.entry import Entry, parse_entries
from eval.suites.suite import FILES, SUITES


def given(**words: str) -> EvalParameters:
    return EvalParameters.from_assignments(words)


def test_every_file_is_a_suite_that_can_be_asked_for() -> None:
    assert sorted(FILES) == sorted(path.name for path in (ROOT / "eval/suites").glob("*.toml"))
    assert get_args(EvalParameters.model_fields["suite"].annotation) == tuple(SUITES)
    seen = hashed_files("eval.suites.suite")
    assert {f"eval/suites/{file}" for file in FILES} <= seen.keys()


def test_every_task_of_a_suite_says_its_examples_and_what_counts() -> None:
    for suite in SUITES.values():
        assert all(entry.metric and entry.shots is not None for entry in suite.tasks)
        labels = [entry.label for entry in suite.tasks]
        assert len(set(labels)) == len(labels)
    sizes = {name: len(suite.tasks) for name, suite in SUITES.items() if suite.tasks}
    assert sizes == {
        "paper-zero-shot": 8,
        "wanda-table": 7,
        "llm-pruner-table": 7,
        "collection": 20,
        "blimp": 67,
    }
    shots = {entry.label: entry.shots for entry in SUITES["collection"].tasks if entry.shots}
    expected = {"winogrande:5": 5, "arc_challenge:25": 25, "hellaswag:10": 10, "mmlu:5": 5}
    assert shots == expected
    assert {entry.metric for entry in SUITES["wanda-table"].tasks} == {"acc"}
    assert SUITES["wanda-table"].harness == "0.3.0"
    assert (SUITES["ppl"].bounds.windows, SUITES["ppl"].bounds.seqlen) == (256, 8192)


@pytest.mark.parametrize(
    ("word", "entry", "label"),
    [
        ("boolq", Entry("boolq"), "boolq"),
        ("winogrande:5", Entry("winogrande", 5), "winogrande:5"),
        ("winogrande:0:acc", Entry("winogrande", 0, "acc"), "winogrande"),
        ("arc_easy::acc_norm", Entry("arc_easy", None, "acc_norm"), "arc_easy"),
    ],
)
def test_words_of_tasks(word: str, entry: Entry, label: str) -> None:
    (found,) = parse_entries([f" {word} ", word, ""])
    assert (found, found.label, str(found)) == (entry, label, word)


@pytest.mark.parametrize("word", ["boolq:x", "boolq:-1", ":5", "boolq:1:acc:norm", "boolq:1.5"])
def test_words_that_are_none_are_refused(word: str) -> None:
    with pytest.raises(InputError, match=f"TASKS={word} is not <task>"):
        given(TASKS=f"rte,{word}")


@pytest.mark.parametrize("words", ["rte:0:acc,rte:0:f1", "rte,rte:0", "rte:5:acc,rte:5"])
def test_results_of_one_name_are_refused(words: str) -> None:
    with pytest.raises(InputError, match=r"asks for rte(:5)? twice"):
        given(TASKS=words)


def test_a_suite_that_was_recorded_measured_what_it_stood_for(tmp_path: Path) -> None:
    today = given(SUITE="paper-zero-shot").identity()
    assert today[MEASURES].startswith("winogrande:0:acc,arc_challenge:0:acc_norm")
    assert EvalParameters.identity_of(today) == today
    before = {key: value for key, value in today.items() if key != MEASURES}
    assert EvalParameters.identity_of(before)[MEASURES].startswith("boolq:0:acc,rte:0:acc")
    named = given(SUITE="paper-zero-shot", TASKS="boolq").identity()
    assert MEASURES not in named
    assert EvalParameters.identity_of(named) == named
    for suite in ("quick", "perplexity", "tasks"):
        assert MEASURES not in EvalParameters.identity_of(given(SUITE=suite).identity())


def test_suites_of_tasks_need_no_text() -> None:
    assert {name for name in SUITES if not given(SUITE=name).unused()} == {
        "quick",
        "perplexity",
        "ppl",
    }


def test_a_result_without_samples_is_not_all_that_is_asked_for() -> None:
    """And one of before, which says nothing of samples, has none."""
    plain, asked = (
        EvalParameters.from_assignments({"SUITE": "tasks", "LOG_SAMPLES": value}).identity()
        for value in ("0", "1")
    )
    assert plain != asked
    recorded = {name: value for name, value in plain.items() if name != "log_samples"}
    assert EvalParameters.identity_of(recorded) == plain
