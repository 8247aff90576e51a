"""Two evaluations held against each other: each cause by itself, on samples that are made up."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from espalier.errors import InputError
from eval.comparing import causes
from eval.comparing.causes import excerpts
from eval.comparing.documents import choice, documents, paired
from eval.comparing.harnesses import BOTH, require_comparable
from eval.comparing.scores import Score, Value, of_the_metric, scores
from eval.comparing.table import NOTHING, report
from eval.comparing.task import TaskComparison
from eval.samples.sample import (
    GENERATION,
    PAIR,
    ROLLING,
    SAMPLES,
    Sample,
    Tokens,
    read_samples,
    write_samples,
)
from eval.suites.entry import Entry, parse_entries

METRICS = ("acc", "acc_norm")


def question(line: int = 1, *likelihoods: float, **changed: Any) -> list[Sample]:
    """A document with an answer for each log-likelihood."""
    tokens = Tokens(context=3, continuation=1, begin="", ids="aa")
    answers = enumerate(likelihoods or (-1.0, -2.0))
    plain = [
        Sample(
            "task", line, number, PAIR, "Question: a?\nAnswer:", f" answer {number}", None, value
        )
        for number, value in answers
    ]
    return [replace(sample, greedy=False, tokens=tokens, **changed) for sample in plain]


def compared(one: list[Sample], other: list[Sample]) -> TaskComparison:
    return TaskComparison.of(one, other, METRICS)


def only_cause(found: TaskComparison) -> tuple[str, int, str]:
    (cause,) = found.ordered
    return cause.name, cause.documents, cause.first


def changed(samples: list[Sample], **values: Any) -> list[Sample]:
    return [replace(sample, **values) for sample in samples]


def test_another_prompt() -> None:
    other = changed(question(4), context="Question: a?\nThe answer:")
    name, count, first = only_cause(compared(question(4), other))
    assert (name, count) == (causes.PROMPTS, 1)
    assert first == "row 4, '…uestion: a?\\nAnswer:' against '…uestion: a?\\nThe answer:'"


def test_another_continuation() -> None:
    other = [replace(s, continuation=f"{s.continuation}.") for s in question()]
    name, _, first = only_cause(compared(question(), other))
    assert name == causes.CONTINUATIONS
    assert first == "row 1, ' answer 0' against ' answer 0.'"


def test_a_blank_more_is_another_continuation_of_the_same_answer() -> None:
    other = [replace(s, continuation=(s.continuation or "").strip()) for s in question()]
    found = compared(question(), other[::-1])
    assert only_cause(found)[0] == causes.CONTINUATIONS
    assert found.choices == {"acc": 0, "acc_norm": 0}


def test_a_begin_token() -> None:
    begun = Tokens(context=4, continuation=1, begin="<s>", ids="aa")
    other = [replace(s, tokens=begun, loglikelihood=-9.0) for s in question()]
    found = compared(question(), other)
    assert only_cause(found) == (causes.BEGIN, 1, "row 1, none against '<s>'")
    assert found.distance == 8.0  # of the same text, whatever the tokens


def test_other_tokens_of_the_same_text() -> None:
    for tokens in (Tokens(3, 1, "", "bb"), Tokens(2, 2, "", "aa")):
        found = compared(question(), changed(question(), tokens=tokens))
        assert only_cause(found)[0] == causes.TOKENS
    assert only_cause(found)[2] == "row 1, 3 + 1 tokens against 2 + 2"


def test_other_tokens_of_another_text_are_not_a_second_cause() -> None:
    other = changed(question(), context="b", tokens=Tokens(1, 1, "", "cc"))
    assert only_cause(compared(question(), other))[0] == causes.PROMPTS


def test_other_numbers_of_the_same_tokens() -> None:
    found = compared(question(1, -1.0, -1.1), question(1, -1.0, -0.9))
    assert only_cause(found) == (causes.LIKELIHOODS, 1, "row 1, -1.1000 against -0.9000")
    assert found.choices["acc"] == 1
    assert found.distance == pytest.approx(0.2)
    assert not compared(question(1, -1.0, -1.1), question(1, -1.0, -1.1005)).causes
    assert not compared(question(1, -9000.0), question(1, -9000.05)).causes


def test_a_near_tie() -> None:
    found = compared(question(1, -1.0, -1.0005), question(1, -1.0008, -1.0005))
    assert only_cause(found)[:2] == (causes.TIES, 1)
    assert found.choices == {"acc": 1, "acc_norm": 1}


def test_greedy_flags_are_counted() -> None:
    other = changed(question(), greedy=True)
    found = compared(question(), other)
    assert found.greedy == 2
    assert found.ordered == []


def test_rows_that_one_alone_has() -> None:
    found = compared(question(1) + question(2), question(2) + question(3))
    assert only_cause(found) == (causes.ROWS, 2, "row 1 is in the first alone")
    assert found.documents == 1


def test_another_number_of_requests_and_another_kind() -> None:
    found = compared(question(1, -1.0, -2.0, -3.0), question(1, -1.0, -2.0))
    assert only_cause(found)[::2] == (
        causes.REQUESTS,
        "row 1, 3 of loglikelihood against 2 of loglikelihood",
    )
    assert found.choices["acc"] == 1
    said = [Sample("task", 1, 0, GENERATION, "a", generated="b")]
    assert only_cause(compared(question(1, -1.0), said))[0] == causes.REQUESTS


def test_generated_texts() -> None:
    one = [Sample("task", 1, 0, GENERATION, "a", generated="seven")]
    found = compared(one, changed(one, generated="several"))
    assert only_cause(found) == (causes.GENERATED, 1, "row 1, 'seven' against 'several'")
    assert found.choices["acc"] == 1


def test_whole_texts_have_no_choice() -> None:
    one = [Sample("task", 1, 0, ROLLING, text="ff", loglikelihood=-10.0)]
    assert compared(one, changed(one, loglikelihood=-11.0)).choices == {"acc": 0, "acc_norm": 0}
    assert only_cause(compared(one, changed(one, text="ee")))[0] == causes.PROMPTS


def test_a_second_begin_token_before_a_whole_text_is_no_other_token_of_it() -> None:
    one = [Sample("task", 1, 0, ROLLING, text="ff", tokens=Tokens(1, 9, "</s>", "aa"))]
    found = compared(one, changed(one, tokens=Tokens(1, 10, "<s><s>", "aa")))
    assert only_cause(found) == (causes.BEGIN, 1, "row 1, '</s>' against '<s><s>'")
    assert only_cause(compared(one, changed(one, tokens=Tokens(1, 9, "</s>", "bb"))))[0] == "tokens"


def test_answers_belong_together_by_what_they_say() -> None:
    """One harness asks for yes first, and another for no."""
    yes, no = question(1, -1.0, -2.0)
    yes, no = replace(yes, continuation=" yes"), replace(no, continuation=" no")
    turned = [replace(no, request=0), replace(yes, request=1)]
    assert compared([yes, no], turned).ordered == []
    assert compared([yes, no], turned).choices["acc"] == 0
    alike = changed([yes, no], continuation=" same")  # two contexts, as winogrande's
    assert paired(alike, alike) == [(alike[0], alike[0]), (alike[1], alike[1])]


def test_what_is_chosen() -> None:
    long = replace(question()[0], continuation=" abcdefghij", loglikelihood=-4.0)
    short = replace(question()[1], continuation=" ab", loglikelihood=-2.0)
    assert choice([long, short], "acc") == 1
    assert choice([long, short], "acc_norm") == 0  # -0.4 a letter, and -1
    assert choice([replace(long, greedy=True)], "acc") is True


def value(number: float) -> Value:
    return Value(number, 0.01)


def test_a_score_that_no_choice_explains_is_another_metric() -> None:
    alike = compared(question(), question())
    found = of_the_metric(Score("acc", value(0.5), value(0.75)), alike)
    assert found is not None
    assert found.name == causes.METRIC
    assert of_the_metric(Score("acc", value(0.5), value(0.5)), alike) is None
    other = compared(question(1, -1.0, -2.0), question(1, -3.0, -2.0))
    assert of_the_metric(Score("acc", value(0.0), value(1.0)), other) is None
    missing = of_the_metric(Score("acc_norm", None, value(1.0)), alike)
    assert missing is not None
    assert missing.first == "the second alone has acc_norm"


def test_any_other_metric_is_another_where_nothing_else_is() -> None:
    text = [Sample("task", 1, 0, ROLLING, text="ff", loglikelihood=-10.0)]
    far = changed(text, loglikelihood=-11.0)
    score = Score("word_perplexity", value(9.0), value(11.0))
    same = TaskComparison.of(text, text, ["word_perplexity"])
    assert of_the_metric(score, same) is not None
    near = Score("word_perplexity", value(35.9575), value(35.9579))
    assert of_the_metric(near, same) is None  # as sums of thousands of nats move it by rounding
    assert of_the_metric(score, TaskComparison.of(text, far, ["word_perplexity"])) is None


TEXTS = st.text("ab .'\"\n\u2028é👩", max_size=20)
TOKENS = st.builds(
    Tokens, st.integers(1, 9), st.integers(1, 9), st.sampled_from(["", "<s>"]), TEXTS
)
NUMBERS = st.floats(-1e4, 0)


@st.composite
def sampled(draw: Any) -> list[Sample]:
    """Samples of a task, of any kinds."""
    found: list[Sample] = []
    for line in draw(st.lists(st.integers(1, 50), unique=True, max_size=5)):
        kind = draw(st.sampled_from([PAIR, ROLLING, GENERATION]))
        for number in range(draw(st.integers(1, 4))):
            of = ("task", line, number, kind)
            if kind == PAIR:
                answer = (draw(NUMBERS), draw(st.booleans()))
                texts = (draw(TEXTS), draw(TEXTS))
                found.append(Sample(*of, *texts, None, *answer, tokens=draw(st.none() | TOKENS)))
            elif kind == ROLLING:
                found.append(Sample(*of, text=draw(TEXTS), loglikelihood=draw(NUMBERS)))
            else:
                found.append(Sample(*of, draw(TEXTS), generated=draw(TEXTS)))
    return found


@given(sampled(), st.randoms(use_true_random=False))
def test_of_the_same_samples_nothing_differs(samples: list[Sample], rng: Any) -> None:
    """In whatever order they are written."""
    shuffled = list(samples)
    rng.shuffle(shuffled)
    found = compared(samples, shuffled)
    assert found.ordered == []
    assert found.documents == len({sample.document for sample in samples})
    assert set(found.choices.values()) == {0}
    assert (found.distance or 0.0, found.greedy) == (0.0, 0)


@given(sampled())
def test_samples_come_back_from_their_file(tmp_path_factory: Any, samples: list[Sample]) -> None:
    place = tmp_path_factory.mktemp("evaluation")
    write_samples(place / SAMPLES, samples)
    read = read_samples(place)
    assert [sample for task in read.values() for sample in task] == samples


@given(TEXTS, TEXTS)
def test_excerpts_show_where_texts_part(one: str, other: str) -> None:
    first, second = excerpts("x" * 99 + one, "x" * 99 + other).split(" against ", 1)
    if one != other and " against " not in one + other:
        assert first != second
        assert first.startswith(("'…x", '"…x'))


def test_documents_are_in_the_order_of_their_rows() -> None:
    found = documents([*question(7)[::-1], *question(2)])
    assert list(found) == [2, 7]
    assert [sample.request for sample in found[7]] == [0, 1]


@pytest.fixture
def evaluations(tmp_path: Path) -> Iterator[Any]:
    """Writes an evaluation of the store `tmp_path`."""

    def write(label: str, samples: list[Sample], accuracy: float = 0.5, **rest: Any) -> Path:
        place = tmp_path / "evals" / "tiny" / label
        place.mkdir(parents=True)
        results = {
            "results": {"task": {"acc,none": accuracy, "acc_stderr,none": 0.05}},
            "configs": {"task": {"metadata": {"rows_sha256": rest.get("rows", "a")}}},
            "lm_eval_version": rest.get("harness", "0.4.13"),
            "config": {"backend": "hf"},
        }
        (place / "results.json").write_text(json.dumps(results))
        write_samples(place / SAMPLES, samples)
        return place

    yield write


def printed(table: Any) -> str:
    console = Console(width=250, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    return " ".join(console.export_text().split())


def test_the_table(evaluations: Any) -> None:
    begun = changed(question(3), tokens=Tokens(4, 1, "<s>", "aa"))
    one = evaluations("old", question(1) + question(3), 0.5, harness="0.3.0")
    other = evaluations("new", question(1) + begun, 0.5)
    text = printed(report(one, other))
    assert "tiny ┃ tiny" in text
    assert "old ┃ new" in text
    assert "lm-eval 0.3.0, hf" in text
    assert "task │ acc │ 0.5000 ± 0.0500 │ 0.5000 ± 0.0500 │ 2 │ 0 │ 0 │ 0 │ begin token 1" in text
    assert "task: begin token: row 3, none against '<s>'" in text
    assert NOTHING in printed(report(one, one))


def test_a_prompt_is_no_markup(evaluations: Any) -> None:
    one = evaluations("one", changed(question(), context="[bold]a[/i] b"))
    text = printed(report(one, evaluations("other", changed(question(), context="[bold]a[/i] c"))))
    assert "'[bold]a[/i] b' against '[bold]a[/i] c'" in text


def test_a_score_is_not_held_against_one_of_other_rows(evaluations: Any) -> None:
    one = evaluations("one", question(), 0.5)
    text = printed(report(one, evaluations("other", question(), 0.9, rows="b")))
    assert "rows: their file is another" in text
    assert "metric:" not in text


def test_what_cannot_be_compared_is_told(evaluations: Any, tmp_path: Path) -> None:
    one = evaluations("one", question())
    with pytest.raises(InputError, match="have no task in common"):
        report(one, evaluations("other", [replace(s, task="b") for s in question()]))
    (one / SAMPLES).write_text("[1]\n")
    with pytest.raises(InputError, match=r"samples\.jsonl:1 is no sample"):
        report(one, one)
    (one / SAMPLES).unlink()
    with pytest.raises(InputError, match=r"has no samples\.jsonl; evaluate it with LOG_SAMPLES=1"):
        report(one, one)
    with pytest.raises(InputError, match="holds no results"):
        report(tmp_path, one)


def test_keys_of_a_task_without_a_usual_metric() -> None:
    values = {"alias": "w", "word_perplexity,none": 9.0, "word_perplexity_stderr,none": "N/A"}
    results = {"results": {"wikitext": values}}
    (found,) = scores(results, results, "wikitext")
    assert found == Score("word_perplexity", Value(9.0, None), Value(9.0, None))


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ("winogrande:5", "winogrande with 5 examples cannot be compared"),
        ("gsm8k", "gsm8k with 5 examples cannot be compared"),
        ("mmlu", "mmlu is not a task of both lm-eval 0.4.13 and 0.3.0"),
        ("arc_easy,truthfulqa_mc1", "truthfulqa_mc1 is not a task of both"),
    ],
)
def test_tasks_that_both_cannot_be_asked(tmp_path: Path, tasks: str, says: str) -> None:
    for entry in parse_entries(tasks.split(",")):
        (tmp_path / f"{entry.name}.jsonl").write_text('{"question": "a"}\n')
    with pytest.raises(InputError) as refused:
        require_comparable(parse_entries(tasks.split(",")), tmp_path)
    assert says in str(refused.value)


def test_tasks_that_both_can_be_asked(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"sentence_good": "a", "sentence_bad": "b"}\n')
    (tmp_path / "boolq.jsonl").write_text('{"passage": "a"}\n')
    (tmp_path / "boolq.fewshot.jsonl").write_text('{"passage": "a"}\n')
    require_comparable([], tmp_path)
    require_comparable(parse_entries(["boolq:0:acc", "pairs", "gsm8k:0"]), tmp_path)
    require_comparable([Entry("not_here")], tmp_path)  # the stage tells
    (tmp_path / "nosuch.jsonl").write_text('{"a": "b"}\n')
    with pytest.raises(InputError, match="nosuch is not a task of both"):
        require_comparable([], tmp_path)
    assert {"boolq", "rte", "hellaswag", "winogrande", "arc_easy", "openbookqa"} <= BOTH
