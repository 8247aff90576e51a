"""Tasks scored from log-likelihoods, beside lm-eval's own model on the same tiny one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.errors import InputError
from espalier.models.tokenizer import load_tokenizer
from tests.tiny import tiny_llama

pytestmark = pytest.mark.minitron

NOUNS = ["fox", "dog", "the", "over", "lazy", "quick", "brown fox", "jumps"]
PAIRS = [{"sentence_good": f"the {n} jumps", "sentence_bad": f"jumps the {n} the"} for n in NOUNS]
BLANKS = [
    {
        "sentence": f"the {noun} jumps over the lazy dog and the _ is quick",
        "option1": noun,
        "option2": "wolf",
        "answer": str(1 + i % 2),
    }
    for i, noun in enumerate(NOUNS)
]
LAST_WORDS = [{"text": f"the {noun} jumps over {noun}", "domain": None} for noun in NOUNS]
CASES = {
    "word_order": (PAIRS, {"shots": 0}),
    "winogrande": (BLANKS, {"shots": 0}),
    "winogrande, examples": (BLANKS, {"shots": 2}),
    "winogrande, some rows": (BLANKS, {"shots": 1, "limit": 5}),
    "winogrande, cut": (BLANKS, {"shots": 3, "max_length": 24}),
    "lambada_openai": (LAST_WORDS, {"shots": 0}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"), initializer_range=0.5)


@pytest.fixture(scope="module")
def network(model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model).eval()


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def ask(model: Path, tmp_path: Path) -> Callable[..., Any]:
    """A task's score: by its name, the rows of each file, and the rest."""

    def asked(
        name: str,
        files: dict[str, list[dict[str, Any]]] | None,
        max_length: int = 128,
        **given: Any,
    ) -> Any:
        from methods.minitron.harness import TaskScore

        folder = tmp_path / "rows" if files else None
        for task, rows in (files or {}).items():
            write(tmp_path / "rows", task, rows)
        tokenizer, scratch = load_tokenizer(model), tmp_path / "scratch"
        return TaskScore(name, folder, tokenizer, max_length, scratch, **given)

    return asked


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer(network: Any, request: Any) -> tuple[float, bool]:
    """By one plain pass."""
    with torch.no_grad():
        logits = network(torch.tensor([request.tokens[:-1]])).logits[0]
    chances = logits.log_softmax(-1)[-request.continuation :]
    targets = torch.tensor(request.tokens[-request.continuation :])
    likely = chances.gather(1, targets[:, None]).sum()
    return float(likely), bool((chances.argmax(-1) == targets).all())


def by_lm_eval(
    network: Any, tokenizer: Any, config: dict[str, Any], max_length: int, **given: Any
) -> tuple[float, dict[tuple[tuple[int, ...], int], tuple[float, bool]]]:
    """The accuracy, and each answer by what was asked."""
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    from methods.minitron.harness import _task_manager

    heard = {}

    class Listening(HFLM):  # type: ignore[misc]
        def _loglikelihood_tokens(self, requests: Any, *words: Any, **named: Any) -> Any:
            answers = super()._loglikelihood_tokens(requests, *words, **named)
            for (_, context, continuation), found in zip(requests, answers, strict=True):
                tokens = (context + continuation)[-max_length - 1 :]
                heard[tuple(tokens), len(continuation)] = found
            return answers

    lm = Listening(pretrained=network, tokenizer=tokenizer, max_length=max_length)
    known = config["task"] in _task_manager().task_index
    task = config if known else ConfigurableTask(config=config)
    results = lm_eval.simple_evaluate(
        model=lm, tasks=[task], task_manager=_task_manager(), bootstrap_iters=0, **given
    )
    (measured,) = results["results"].values()
    return measured["acc,none"], heard


@pytest.mark.parametrize("case", CASES)
def test_it_asks_and_counts_as_lm_eval_does(
    ask: Callable[..., Any], model: Path, network: Any, tmp_path: Path, case: str
) -> None:
    rows, given = CASES[case]
    name, given = case.partition(",")[0], {"max_length": 128} | given
    ours = ask(name, {name: rows}, **given)
    path = write(tmp_path / "its rows", name, rows)
    answers = [answer(network, request) for request in ours.requests]

    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(tmp_path / "its")},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "test",
    }
    if name == "word_order":
        config |= {
            "output_type": "multiple_choice",
            "doc_to_text": "",
            "doc_to_target": 0,
            "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        }
    given["num_fewshot"] = given.pop("shots")
    accuracy, heard = by_lm_eval(network, load_tokenizer(model), config, **given)

    assert {(r.tokens, r.continuation) for r in ours.requests} == heard.keys()
    assert len(set(ours.requests)) == len(ours.requests)
    if "cut" in case:
        assert {len(request.tokens) for request in ours.requests} == {given["max_length"] + 1}
    for request, (likely, greedy) in zip(ours.requests, answers, strict=True):
        theirs = heard[request.tokens, request.continuation]
        assert likely == pytest.approx(theirs[0], abs=1e-4)
        assert greedy == theirs[1]
    assert ours.accuracy(*zip(*answers, strict=True)) == pytest.approx(accuracy)
    assert ours.record["rows"] == min(len(rows), given.get("limit") or len(rows))


def test_every_variant_is_counted_by_its_own_answers(ask: Callable[..., Any]) -> None:
    ours = ask("word_order", {"word_order": PAIRS})
    assert len(ours.requests) == 2 * len(PAIRS)
    false = [False] * len(ours.requests)
    for right in (8, 3, 0):
        likely = [float(i // 2 < right) if i % 2 == 0 else 0.5 for i in range(len(false))]
        assert ours.accuracy(likely, false) == right / len(PAIRS)


def test_the_most_probable_word_counts_where_a_word_is_asked_for(ask: Callable[..., Any]) -> None:
    ours = ask("lambada_openai", {"lambada_openai": LAST_WORDS})
    greedy = [i < 2 for i in range(len(ours.requests))]
    assert ours.accuracy([-1.0] * len(greedy), greedy) == 2 / len(LAST_WORDS)


def test_equal_questions_are_asked_once(ask: Callable[..., Any]) -> None:
    ours = ask("word_order", {"word_order": PAIRS + PAIRS})
    assert len(ours.requests) == 2 * len(PAIRS)
    likely = [float(i % 2 == 0) for i in range(len(ours.requests))]
    assert ours.accuracy(likely, [False] * len(likely)) == 1


def test_nothing_is_printed(ask: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    ours = ask("winogrande", {"winogrande": BLANKS}, shots=2)
    ours.accuracy([0.0] * len(ours.requests), [False] * len(ours.requests))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "winogrand",
            {},
            r"SCORE=winogrand is not a task of lm-eval 0\.4\.9 \(did you mean winogr",
        ),
        (
            "winogrande",
            {},
            r"^SCORE=winogrande needs its rows: give TASK_DATA=<folder of winogrande",
        ),
        (
            "gsm8k",
            {},
            "SCORE=gsm8k is a task of kind generate_until; a score needs one of kind log",
        ),
        ("cola", {}, "SCORE=cola is measured by mcc; a score needs a task with acc"),
        ("mmlu", {}, "SCORE=mmlu is not a single task of rows; name one that is, such as mmlu_"),
        ("ifeval", {}, "SCORE=ifeval does not work here .*langdetect.*; name another task"),
        ("squadv2", {}, "SCORE=squadv2 is not a single task of rows; name one that is"),
        ("blimp_adjunct_island", {"shots": 1}, "is asked without examples; leave SHOTS out"),
    ],
)
def test_what_cannot_be_a_score_is_told_before_rows_are(
    ask: Callable[..., Any], name: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        ask(name, None, **given)


@pytest.mark.parametrize(
    ("name", "files", "given", "said"),
    [
        ("piqa", {"other": PAIRS}, {}, r"lacks piqa\.jsonl; put .* what is there with SCORE="),
        ("winogrande", {"winogrande": []}, {}, "winogrande.jsonl holds no rows"),
        ("winogrande", {"winogrande": [{"q": 1}]}, {}, "has no sentence, which a row of"),
        (
            "winogrande",
            {"winogrande": BLANKS},
            {"shots": 8},
            "SHOTS=8 needs 9 rows or more where .* has 8",
        ),
        ("word_order", {"word_order": PAIRS}, {"max_length": 3}, "long, where 1 to the model's 3"),
    ],
)
def test_rows_that_do_not_do(
    ask: Callable[..., Any], name: str, files: Any, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        ask(name, files, **given)
