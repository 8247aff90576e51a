"""`TokenLM` asks of a model what lm-eval's own `hf` asks, token by token."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lm_eval.models.huggingface")

from espalier.data.token_ids import ModelLimits  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from espalier.models.tokenizer import load_tokenizer  # noqa: E402
from eval.asking import _begin_token  # noqa: E402
from eval.generation import end_ids  # noqa: E402
from eval.model import load_model  # noqa: E402
from eval.planned import PlannedLM  # noqa: E402
from eval.quiet import QuietLM  # noqa: E402
from eval.requests.plan import row_lengths  # noqa: E402
from eval.row_scorer import RowScorer  # noqa: E402
from eval.token_lm import TokenLM  # noqa: E402
from tests.tiny import tiny_llama  # noqa: E402
from tests.unit.test_harness import offline  # noqa: E402, F401
from tests.unit.test_planned import (  # noqa: E402
    CASES,
    asked,
    assert_alike,
    let_tokenizer_begin,
    phrase,
)


class TorchRows(RowScorer):
    """The scorer of `BACKEND=torch`, which needs no other image."""

    dtype = "float32"
    lengths = staticmethod(row_lengths)


def both(path: Path) -> tuple[QuietLM, TokenLM]:
    model = load_model(path, "float32", "cpu")
    ours = TokenLM(load_tokenizer(path), TorchRows(model, 4), ModelLimits.of(path))
    return QuietLM(pretrained=model, tokenizer=load_tokenizer(path), batch_size=4), ours


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "begins"])
def path(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer that puts a begin token before a text by itself, and one that does not."""
    path = tiny_llama(tmp_path_factory.mktemp("model"), initializer_range=0.3)
    if request.param:
        let_tokenizer_begin(path)
    return path


@pytest.mark.parametrize("case", CASES)
def test_log_likelihoods_are_lm_evals_own(path: Path, case: str) -> None:
    hf, ours = both(path)
    requests = asked("loglikelihood", *CASES[case])
    assert_alike(ours.loglikelihood(requests), hf.loglikelihood(requests))
    assert ours.account()["backend"] == "jax"
    assert ours.account()["tokens"]["tree"] <= ours.account()["tokens"]["naive"]


def test_rolling_windows_are_lm_evals_own(path: Path) -> None:
    hf, ours = both(path)
    rng = random.Random(4)
    texts = [(phrase(rng, words),) for words in (1, 5, 60, 61, 200, 400, 3)]
    requests = asked("loglikelihood_rolling", *texts, ("",), ("<s>the fox",))
    found, theirs = ours.loglikelihood_rolling(requests), hf.loglikelihood_rolling(requests)
    assert found == pytest.approx(theirs, abs=1e-3, rel=1e-6)


@pytest.mark.parametrize("text", ["the quick brown fox", "<s>the fox", "the " * 300])
def test_a_rolling_text_begins_once_where_that_is_asked(path: Path, text: str) -> None:
    """As the harness does it where the tokenizer adds nothing."""
    hf, ours = both(path)
    plain = tiny_tokenizer_that_adds_nothing(path)
    requests = asked("loglikelihood_rolling", (text.removeprefix("<s>"),))
    given = {"pretrained": hf.model, "batch_size": 4}
    (expected,) = QuietLM(**given, tokenizer=plain).loglikelihood_rolling(requests)
    requests = asked("loglikelihood_rolling", (text,))
    once = {"bos": "once", "tokenizer": load_tokenizer(path)}
    for lm in (
        QuietLM(**given, **once),
        PlannedLM(**given, **once),
        TokenLM(load_tokenizer(path), ours._scorer, ModelLimits.of(path), bos="once"),
    ):
        assert lm.loglikelihood_rolling(requests) == [pytest.approx(expected, abs=1e-3)]
        begins = lm.tok_encode("a")[:1] == [lm.prefix_token_id]
        assert _begin_token(lm)["rolling"] == "once"
        lm.bos = "harness"
        assert _begin_token(lm)["rolling"] == ("twice" if begins else "once")


def tiny_tokenizer_that_adds_nothing(path: Path) -> Any:
    tokenizer = load_tokenizer(path)
    tokenizer.backend_tokenizer.post_processor = None
    return tokenizer


def test_a_tokenizer_with_nothing_to_put_before_a_text(path: Path) -> None:
    _, ours = both(path)
    tokenizer = load_tokenizer(path)
    tokenizer.bos_token = tokenizer.eos_token = None
    bare = TokenLM(tokenizer, ours._scorer, ModelLimits.of(path))
    requests = asked("loglikelihood", ("the", " fox"))
    assert bare.loglikelihood(requests) == ours.loglikelihood(requests)
    with pytest.raises(InputError, match="name its bos_token"):
        bare.loglikelihood(asked("loglikelihood", ("", "the fox")))


def test_nan_is_no_score(path: Path) -> None:
    _, ours = both(path)
    with torch.no_grad():
        ours._scorer._head.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="became NaN or infinite in float32"):
        ours.loglikelihood(asked("loglikelihood", ("the", " fox")))


def test_what_spells_out_a_token_without_a_row_is_refused(path: Path) -> None:
    _, ours = both(path)
    few = TokenLM(ours.tokenizer, ours._scorer, ModelLimits(128, 3))
    with pytest.raises(InputError, match="the embedding has 3 rows"):
        few.loglikelihood(asked("loglikelihood", ("the", " fox")))


GENERATED = {
    "to the end token or twelve": {"max_gen_toks": 12},
    "to a blank": {"until": [" "], "max_gen_toks": 12, "do_sample": False},
    "to a word or a line": {"until": ["fox", "\n"], "max_gen_toks": 12, "temperature": 0.0},
    "as many as are left": {"until": "dog", "max_gen_toks": 127},
}


@pytest.mark.parametrize("case", GENERATED)
def test_what_is_generated_is_what_lm_evals_own_generates(path: Path, case: str) -> None:
    hf, ours = both(path)
    rng = random.Random(5)
    contexts = ["the", "the quick brown", "dog", *(phrase(rng, words) for words in (7, 30, 200))]
    found = []
    for context in contexts:  # one at a time: a batch of lm-eval's own decides for all of it
        request = asked("generate_until", (context, GENERATED[case]))
        found += hf.generate_until(request, disable_tqdm=True)
    requests = asked("generate_until", *((context, GENERATED[case]) for context in contexts))
    assert ours.generate_until(requests) == found
    assert any(found)


def test_an_end_token_ends_a_text(path: Path) -> None:
    _, ours = both(path)
    requests = asked("generate_until", ("the quick", {"max_gen_toks": 9}))
    (whole,) = ours.generate_until(requests)
    ended = TokenLM(ours.tokenizer, ours._scorer, ModelLimits.of(path), ends=range(288))
    assert whole
    assert ended.generate_until(requests) == [""]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"do_sample": True, "temperature": 0.7}, r"do_sample=True, temperature=0\.7"),
        ({"num_beams": 4}, "num_beams=4"),
        ({"max_gen_toks": 128}, "128 new tokens, and the model has 128 positions"),
        ({"max_gen_toks": 0}, "asks for 0 new tokens"),
    ],
)
def test_what_is_not_the_likeliest_or_does_not_fit_is_refused(
    path: Path, settings: dict[str, Any], why: str
) -> None:
    _, ours = both(path)
    with pytest.raises(InputError, match=why):
        ours.generate_until(asked("generate_until", ("the", settings)))


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"config.json": {"eos_token_id": 2}}, {2}),
        ({"config.json": {"eos_token_id": 2}, "generation_config.json": {}}, {2}),
        ({"config.json": {}, "generation_config.json": {"eos_token_id": [3, 4]}}, {3, 4}),
        ({"config.json": {}}, set()),
    ],
)
def test_the_ids_that_end_a_text_are_the_checkpoint_s(
    tmp_path: Path, files: dict[str, Any], ends: set[int]
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert end_ids(tmp_path) == ends
