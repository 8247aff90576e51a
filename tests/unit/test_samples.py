"""`LOG_SAMPLES=1`: each request with its answer, the same lines from both harnesses."""

import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from espalier.models.tokenizer import load_tokenizer  # noqa: E402
from eval.samples.legacy import numbered  # noqa: E402
from eval.samples.sample import (  # noqa: E402
    GENERATION,
    PAIR,
    ROLLING,
    SAMPLES,
    Sample,
    read_samples,
)
from eval.stage import run, run_legacy  # noqa: E402
from tests.tiny import tiny_llama  # noqa: E402
from tests.unit.test_harness import (  # noqa: E402
    ARC,
    current,
    either,
    evaluate,
    legacy,
    minimal_pairs,
    offline,  # noqa: F401
    write_rows,
)

pytestmark = pytest.mark.every_image

LONG = "the quick brown fox " * 60
"""More tokens than the model has positions."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Room for what 0.3.0 generates, and weights that are large enough for answers to differ."""
    place = tmp_path_factory.mktemp("model")
    return tiny_llama(place, initializer_range=0.3, max_position_embeddings=512)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of each kind of requests; the rows of one with a blank line."""
    folder = minimal_pairs(tmp_path_factory.mktemp("data") / "rows")
    write_rows(folder / "arc_easy.jsonl", [{**ARC, "question": f"the {n}?"} for n in "abcdef"])
    lines = (folder / "arc_easy.jsonl").read_text().replace("\n", "\n\n", 1)
    (folder / "arc_easy.jsonl").write_text(lines)
    write_rows(folder / "lambada_openai.jsonl", [{"text": "the fox jumps over"}] * 2)
    write_rows(folder / "anagrams1.jsonl", [{"context": "the xof is", "completion": "fox"}] * 2)
    write_rows(folder / "wikitext.jsonl", [{"page": LONG}, {"page": "the lazy dog"}])
    return folder


def sampled(
    stage: Any, place: Path, model: Path, folder: Path, **given: str
) -> tuple[dict[str, list[Sample]], dict[str, Any]]:
    place.mkdir(exist_ok=True)
    inputs = {"model": model, "tasks": folder}
    words = {"SUITE": "tasks", "BATCH": "4", "LOG_SAMPLES": "1"} | given
    _, results = evaluate(stage, place, inputs, **words)
    return read_samples(place / "out"), results["results"]


def likelihoods(model: Path) -> Callable[[list[int], list[int]], float]:
    """Of tokens after others, by stock transformers."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model)

    def of(before: list[int], after: list[int]) -> float:
        ids = torch.tensor([*before, *after])
        with torch.no_grad():
            chances = network(ids[None]).logits[0].log_softmax(-1)
        steps = list(pairwise(ids.tolist()))[len(before) - 1 :]
        places = range(len(before) - 1, len(ids) - 1)
        return sum(float(chances[at, token]) for at, (_, token) in zip(places, steps, strict=True))

    return of


@pytest.mark.slow  # a name that is none of the suites' has lm-eval 0.4 read all of its YAML
@pytest.mark.parametrize("stage", either)
def test_each_request_is_written_with_its_answer(
    model: Path, folder: Path, tmp_path: Path, stage: Any
) -> None:
    samples, results = sampled(stage, tmp_path, model, folder)
    assert samples.keys() == results.keys()
    tokenizer, of = load_tokenizer(model), likelihoods(model)
    begin, blank = ("<s>", " ") if stage is run else ("</s>", "")

    pairs = samples["word_order"]
    assert [(s.document, s.request) for s in pairs] == [(n, k) for n in range(1, 7) for k in (0, 1)]
    assert {(s.kind, s.context, s.tokens and s.tokens.begin) for s in pairs} == {(PAIR, "", begin)}
    sentences = [blank + sentence for sentence in ("the fox jumps", "jumps the fox the")]
    assert [s.continuation for s in pairs[:2]] == sentences
    right = [good.loglikelihood > bad.loglikelihood for good, bad in zip(pairs[::2], pairs[1::2])]  # type: ignore[operator] # noqa: B905
    assert sum(right) / 6 == pytest.approx(results["word_order"]["acc,none"])

    asked = samples["arc_easy"]
    assert [s.document for s in asked[::2]] == [1, 3, 4, 5, 6, 7]
    assert asked[0].context == "Question: the a?\nAnswer:"
    assert [s.continuation for s in asked[:2]] == [" quick", " lazy dog"]
    for sample in [*pairs, *asked]:
        assert sample.tokens is not None
        before = [tokenizer.convert_tokens_to_ids(begin)] if sample.tokens.begin else []
        before += tokenizer.encode(sample.context or "", add_special_tokens=False)
        after = tokenizer.encode(sample.continuation or "", add_special_tokens=False)
        assert (sample.tokens.context, sample.tokens.continuation) == (len(before), len(after))
        assert sample.loglikelihood == pytest.approx(of(before, after), abs=1e-3)

    last = samples["lambada_openai"]
    assert [(s.document, s.request, s.continuation) for s in last] == [
        (1, 0, " over"),
        (2, 0, " over"),
    ]
    assert results["lambada_openai"]["acc,none"] == float(last[0].greedy or 0)

    said, _ = samples["anagrams1"]
    assert (said.kind, said.context, said.tokens) == (GENERATION, "the xof is", None)
    assert said.generated is not None
    assert said.loglikelihood is None


@pytest.mark.parametrize("stage", either)
def test_whole_texts_are_written_by_their_hash(
    model: Path, folder: Path, tmp_path: Path, stage: Any
) -> None:
    samples, _ = sampled(stage, tmp_path, model, folder, TASKS="wikitext")
    long, short = samples["wikitext"]
    assert (short.kind, short.context, short.greedy) == (ROLLING, None, None)
    assert short.text == hashlib.sha256(b"the lazy dog").hexdigest()
    ids = load_tokenizer(model).encode("the lazy dog", add_special_tokens=False)
    begin = 0 if stage is run else 1
    assert short.loglikelihood == pytest.approx(likelihoods(model)([begin], ids), abs=1e-3)
    assert short.tokens is not None
    assert (short.tokens.begin, short.tokens.continuation) == (("<s>", "</s>")[begin], len(ids))
    assert long.tokens is not None
    assert long.tokens.continuation > 240


@pytest.mark.slow  # as the first
@current
@pytest.mark.parametrize(("bos", "begin"), [("harness", "<s><s>"), ("once", "<s>")])
def test_begin_tokens_of_a_whole_text_are_those_that_the_model_reads(
    folder: Path, tmp_path: Path, bos: str, begin: str
) -> None:
    from tests.unit.test_planned import let_tokenizer_begin  # which needs lm-eval 0.4

    let_tokenizer_begin(model := tiny_llama(tmp_path / "model"))
    samples, _ = sampled(run, tmp_path, model, folder, TASKS="wikitext", BOS=bos)
    tokens = samples["wikitext"][1].tokens
    assert tokens is not None
    assert tokens.begin == begin
    assert tokens.continuation == len(load_tokenizer(model).encode("the lazy dog")) - (
        bos == "once"
    )


@pytest.mark.parametrize("stage", either)
def test_a_limit_leaves_the_first_rows(
    model: Path, folder: Path, tmp_path: Path, stage: Any
) -> None:
    """Also by 0.3.0, which by itself draws as many: else two harnesses would ask other rows."""
    few, _ = sampled(stage, tmp_path / "few", model, folder, TASKS="arc_easy", LIMIT="3")
    assert [(s.document, s.request) for s in few["arc_easy"]] == [
        (line, k) for line in (1, 3, 4) for k in (0, 1)
    ]
    whole, _ = sampled(stage, tmp_path / "whole", model, folder, TASKS="arc_easy")
    for one, other in zip(few["arc_easy"], whole["arc_easy"], strict=False):
        assert (one.context, one.tokens) == (other.context, other.tokens)
        assert one.loglikelihood == pytest.approx(other.loglikelihood, abs=1e-4)


@pytest.mark.parametrize("stage", either)
def test_nothing_is_written_unasked(model: Path, folder: Path, tmp_path: Path, stage: Any) -> None:
    inputs = {"model": model, "tasks": folder}
    evaluate(stage, tmp_path, inputs, SUITE="tasks", TASKS="word_order")
    assert not (tmp_path / "out" / SAMPLES).exists()


@current
def test_backends_write_the_same(model: Path, folder: Path, tmp_path: Path) -> None:
    found = [
        sampled(run, tmp_path / backend, model, folder, BACKEND=backend)[0]
        for backend in ("hf", "torch")
    ]
    assert found[0].keys() == found[1].keys()
    for task, samples in found[0].items():
        for one, other in zip(samples, found[1][task], strict=True):
            assert (one.context, one.continuation, one.text, one.tokens, one.greedy) == (
                *(other.context, other.continuation, other.text, other.tokens, other.greedy),
            )
            assert one.loglikelihood == pytest.approx(other.loglikelihood, abs=1e-3)


@legacy
def test_examples_are_part_of_the_prompt(model: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "rows").mkdir()
    write_rows(folder / "arc_easy.jsonl", [{**ARC, "question": f"the {n}?"} for n in "abc"])
    write_rows(folder / "arc_easy.fewshot.jsonl", [{**ARC, "question": "shown?"}] * 2)
    samples, _ = sampled(run_legacy, tmp_path, model, folder, TASKS="arc_easy:1")
    for line, name in enumerate("abc", 1):
        (context,) = {s.context for s in samples["arc_easy:1"] if s.document == line}
        assert "shown?" in str(context)
        assert f"the {name}?" in str(context)


def test_a_request_whose_parts_are_put_by_themselves_is_one() -> None:
    def part(kind: str, args: tuple[str, ...], index: int | None) -> Any:
        return SimpleNamespace(request_type=kind, args=args, index=index)

    asked = [
        part("loglikelihood", ("a", " b"), 0),
        part("loglikelihood", ("a", " b"), 1),
        part("loglikelihood", ("a", " c"), 0),
        part("loglikelihood", ("a", " c"), 0),  # the same answer offered twice
        part("greedy_until", ("a", " c"), None),
    ]
    assert [number for number, _ in numbered(asked)] == [0, None, 1, 2, 3]


@pytest.mark.slow
@current
def test_0_4_13_has_what_both_are_said_to_have() -> None:
    from eval.comparing.harnesses import BOTH, OWN_EXAMPLES
    from eval.tasks import _index

    index = _index(None)
    assert index.keys() >= BOTH
    assert OWN_EXAMPLES.keys() <= BOTH


@legacy
def test_0_3_0_has_what_both_are_said_to_have() -> None:
    from lm_eval.tasks import TASK_REGISTRY

    from eval.comparing.harnesses import BOTH

    assert TASK_REGISTRY.keys() >= BOTH
