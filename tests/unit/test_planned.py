"""`BACKEND=torch` gives each sample what lm-eval's own `hf` gives it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lm_eval.models.huggingface")

from lm_eval.api.instance import Instance  # noqa: E402

from espalier.contract.paths import ROOT  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from espalier.models.products import FLOAT32_ROUNDED, products  # noqa: E402
from espalier.models.tokenizer import load_tokenizer  # noqa: E402
from eval.model import load_model  # noqa: E402
from eval.planned import PlannedLM  # noqa: E402
from eval.quiet import QuietLM  # noqa: E402
from eval.requests.plan import make_plan, row_lengths  # noqa: E402
from eval.requests.request import Request, continued  # noqa: E402
from eval.row_scorer import RowScorer  # noqa: E402
from eval.tree_probe import attended_positions, refusal  # noqa: E402
from tests.tiny import SHAPE, tiny_llama  # noqa: E402
from tests.unit.test_compaction import KINDS, compacted, padded_llama  # noqa: E402
from tests.unit.test_harness import either, evaluate, minimal_pairs, offline  # noqa: E402, F401
from tests.unit.test_slicegpt import blockwise_model  # noqa: E402
from tests.unit.tiny_checkpoints import make_checkpoint  # noqa: E402

SHARED = ROOT.parent / "shared"
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "Zog", "\n", "ü"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that are large enough for a wrong mask to be seen in the fifth digit."""
    return tiny_llama(tmp_path_factory.mktemp("model"), initializer_range=0.3)


def both(path: Path, batch: int = 4, dtype: str = "float32") -> tuple[QuietLM, PlannedLM]:
    model = load_model(path, dtype, "cpu")
    given = {"pretrained": model, "tokenizer": load_tokenizer(path), "batch_size": batch}
    return QuietLM(**given), PlannedLM(**given)


def asked(kind: str, *texts: Any) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=args, idx=index)
        for index, args in enumerate(texts)
    ]


def phrase(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def few_shot(shots: int = 20, questions: int = 6) -> list[tuple[str, str]]:
    rng = random.Random(0)
    prefix = phrase(rng, shots)
    found = []
    for _ in range(questions):
        question = f"{prefix}\n\n{phrase(rng, 6)}\nAnswer:"
        found += [(question, f" {phrase(rng, rng.randint(1, 5))}") for _ in range(4)]
        found += [(question, answer) for answer in (" A", " B", " the", " the")]
    return found


def pairs(count: int = 12) -> list[tuple[str, str]]:
    rng = random.Random(1)
    found = []
    for _ in range(count):
        start = phrase(rng, 4)
        found += [("", f"{start} {rng.choice(WORDS)}."), ("", f"{start} {rng.choice(WORDS)} dog.")]
    return found


CASES = {
    "few-shot multiple choice": few_shot(),
    "minimal pairs": pairs(),
    "blanks at the boundary": [("the fox ", "jumps"), ("the fox", " jumps"), ("the  ", " dog")],
    "a begin token that is written out": [("<s>the fox", " jumps"), ("", "<s>the fox")],
    "longer than the window": [
        (phrase(random.Random(2), words), phrase(random.Random(3), answer))
        for words in (10, 60, 130, 300)
        for answer in (1, 5, 20)
    ],
    "the same twice": [("the fox", " jumps")] * 3 + [("the fox", " jumps over")],
    "one": [("the", " fox")],
    "none": [],
}


def assert_alike(ours: list[tuple[float, bool]], theirs: list[tuple[float, bool]]) -> None:
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [value for value, _ in ours] == pytest.approx([v for v, _ in theirs], abs=1e-4, rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_log_likelihoods_are_lm_evals_own(path: Path, case: str) -> None:
    hf, planned = both(path)
    requests = asked("loglikelihood", *CASES[case])
    assert_alike(planned.loglikelihood(requests), hf.loglikelihood(requests))
    account = planned.account()
    assert account["backend"] == "torch"
    assert "backend_fallback" not in account
    assert account["tokens"]["tree"] <= account["tokens"]["naive"]
    if case == "few-shot multiple choice":
        assert account["tokens"]["rows"] < account["tokens"]["naive"] / 4


def test_one_text_that_is_parted_in_two_ways_is_scored_as_asked(path: Path) -> None:
    """lm-eval 0.4.13 takes such answers from its cache, at the wrong places (see README.md)."""
    hf, planned = both(path)
    requests = asked("loglikelihood", ("the fox", " jumps"), ("the", " fox jumps"))
    ours, cached = planned.loglikelihood(requests), hf.loglikelihood(requests)
    assert abs(ours[0][0] - cached[0][0]) > 0.1
    hf.logits_cache = False
    assert_alike(ours, hf.loglikelihood(requests))


def test_greedy_answers_are_found(path: Path) -> None:
    """Among answers of which one is what the model itself would say."""
    hf, planned = both(path)
    model, tokenizer = hf.model, hf.tokenizer
    requests = []
    for context in ("the", "the quick", "dog fox"):
        ids = torch.tensor([tokenizer.encode(context)])
        said = model.generate(ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :].tolist()
        requests += [((context, ""), ids[0].tolist(), said[:n]) for n in (1, 2, 3)]
        requests += [((context, ""), ids[0].tolist(), [*said[:1], (said[1] + 1) % 288])]
    ours, theirs = (lm._loglikelihood_tokens(requests) for lm in (planned, hf))
    assert_alike(ours, theirs)
    assert sum(greedy for _, greedy in ours) == 9


@pytest.mark.parametrize("begins", [False, True])
def test_rolling_windows_are_lm_evals_own(tmp_path: Path, begins: bool) -> None:
    path = tiny_llama(tmp_path / "model", initializer_range=0.3)
    if begins:
        let_tokenizer_begin(path)
    hf, planned = both(path)
    rng = random.Random(4)
    texts = [(phrase(rng, words),) for words in (1, 5, 60, 61, 200, 400, 3)]
    requests = asked("loglikelihood_rolling", *texts)
    ours, theirs = planned.loglikelihood_rolling(requests), hf.loglikelihood_rolling(requests)
    assert ours == pytest.approx(theirs, abs=1e-3, rel=1e-6)
    assert planned.batch_size == 4
    first = next(iter(hf.tok_encode("the fox")))
    assert (first == hf.prefix_token_id) == begins


def let_tokenizer_begin(path: Path) -> None:
    """A tokenizer that puts its begin token before a text by itself, as Llama's does."""
    content = json.loads((path / "tokenizer.json").read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    (path / "tokenizer.json").write_text(json.dumps(content))


def test_rolling_puts_a_second_begin_token_before_a_text(tmp_path: Path) -> None:
    """What lm-eval 0.4.13 does, and what README.md says of it."""
    path = tiny_llama(tmp_path / "model")
    let_tokenizer_begin(path)
    _, planned = both(path)
    seen: list[Any] = []
    scored = planned._loglikelihood_tokens

    def looked_at(requests: Any, **given: Any) -> Any:
        seen.extend(requests)
        return scored(requests, **given)

    planned._loglikelihood_tokens = looked_at
    planned.loglikelihood_rolling(asked("loglikelihood_rolling", ("the fox",)))
    planned.loglikelihood(asked("loglikelihood", ("", "the fox"), ("the", " fox")))
    (_, rolling, whole), (_, nothing, pair), (_, context, _) = seen
    assert rolling == [0]
    assert whole[0] == 0  # the text's own begin token is predicted after another
    assert nothing == [0]
    assert pair == whole[1:]  # an empty context has it once
    assert context[0] == 0
    assert 0 not in context[1:]


def test_generation_is_lm_evals_own(path: Path) -> None:
    hf, planned = both(path)
    how = {"until": ["\n"], "max_gen_toks": 5, "do_sample": False}
    requests = asked("generate_until", ("the quick", how), ("the", how), ("dog fox", how))
    assert planned.generate_until(requests) == hf.generate_until(requests)


def test_rows_are_halved_where_memory_runs_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf, planned = both(path, batch=8)
    requests = asked("loglikelihood", *few_shot(questions=40))
    scorer = planned._scorer
    assert scorer is not None
    states, sizes = scorer._states, []

    def too_much(rows: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
        return states(rows)

    monkeypatch.setattr(scorer, "_states", too_much)
    monkeypatch.setattr("eval.planned.row_lengths", lambda longest: [128])
    assert_alike(planned.loglikelihood(requests), hf.loglikelihood(requests))
    assert max(sizes) > 2
    assert scorer.batch < 8
    monkeypatch.setattr(scorer, "_states", lambda rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        planned.loglikelihood(requests)


def test_any_block_of_the_vocabularys_logits_gives_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [continued([1, 2, 3], [a, b], 128) for a in (4, 5) for b in (4, 5, 6)]
    scorer = RowScorer(load_model(path, "float32", "cpu"), 4)
    plan = make_plan(requests, row_lengths(4), scorer.cost)
    whole = scorer.score(plan)
    monkeypatch.setattr("eval.row_scorer.LOGITS_AT_ONCE", {"cpu": 288})
    assert scorer.score(plan).sums == pytest.approx(whole.sums, abs=1e-5)


def test_a_model_that_takes_no_tree_runs_as_hf(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    bloom = BloomForCausalLM(BloomConfig(vocab_size=288, hidden_size=32, n_layer=2, n_head=4))
    assert "Bloom" in str(refusal(bloom.eval()))
    monkeypatch.setattr("eval.planned.refusal", lambda model: "it is no such model")
    hf, planned = both(path)
    requests = asked("loglikelihood", *pairs())
    assert planned.loglikelihood(requests) == hf.loglikelihood(requests)
    texts = asked("loglikelihood_rolling", ("the fox " * 90,))
    assert planned.loglikelihood_rolling(texts) == hf.loglikelihood_rolling(texts)
    assert planned.account()["backend"] == "hf"
    assert planned.account()["backend_fallback"] == ["it is no such model"]


def test_layers_that_see_less_than_a_request_run_as_hf(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(**SHAPE, sliding_window=16, initializer_range=0.3)
    MistralForCausalLM(config).save_pretrained(tmp_path)
    from tests.tiny import tokenizer

    tokenizer().save_pretrained(tmp_path)
    hf, planned = both(tmp_path)
    assert attended_positions(config) == 16
    short, long = asked("loglikelihood", *pairs(2)), asked("loglikelihood", *few_shot())
    assert_alike(planned.loglikelihood(short), hf.loglikelihood(short))
    assert "backend_fallback" not in planned.account()
    assert_alike(planned.loglikelihood(long), hf.loglikelihood(long))
    assert "layers see 16" in planned.account()["backend_fallback"][0]


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Gemma", "GPT2", "GPTNeoX", "OPT", "Phi"])
def test_families_take_trees_or_say_why_not(family: str) -> None:
    """Under their own heads and ways of saying where a token stands."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SHAPE)
    model = getattr(transformers, f"{family}ForCausalLM", None)
    model = (model or transformers.GPT2LMHeadModel)(config).eval()
    for weight in model.parameters():
        weight.data *= 8 if weight.ndim > 1 else 1
    assert refusal(model) is None


def test_compact_and_sliced_models_take_trees(tmp_path: Path) -> None:
    """The loaders of ours, whose layers have widths of their own."""
    padded = padded_llama(tmp_path / "padded", KINDS)
    compacted(padded, tmp_path / "compact", "layers")
    make_checkpoint(tmp_path / "dense", "Llama", initializer_range=0.3)
    blockwise_model(tmp_path / "dense", tmp_path / "sliced")
    for form in ("compact", "sliced"):
        model = load_model(tmp_path / form, "float32", "cpu")
        assert refusal(model) is None
        scorer = RowScorer(model, 2)
        requests = [continued([1, 2, *at], [3, 4], 32) for at in ([5], [6, 7], [], [6, 8])]
        plan = make_plan(requests, row_lengths(6), scorer.cost)
        assert scorer.score(plan).sums == pytest.approx(alone(model, requests), abs=1e-4)


def alone(model: Any, requests: list[Request]) -> list[float]:
    """Each request by itself."""
    sums = []
    with torch.inference_mode():
        for request in requests:
            inputs, targets = (
                torch.from_numpy(ids).long() for ids in (request.inputs, request.targets)
            )
            chances = model(inputs[None]).logits[0, -len(targets) :].log_softmax(-1)
            sums.append(float(chances[range(len(targets)), targets].sum()))
    return sums


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_that_change_after_the_output_layer_run_as_hf(dtype: str) -> None:
    from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    for config, kind in ((Gemma2Config, Gemma2ForCausalLM), (CohereConfig, CohereForCausalLM)):
        model = kind(config(**SHAPE, initializer_range=0.3, pad_token_id=0)).eval()
        assert "output layer" in str(refusal(model.to(getattr(torch, dtype))))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_take_trees(path: Path, dtype: str) -> None:
    model = load_model(path, dtype, "cpu")
    assert refusal(model) is None
    with products(FLOAT32_ROUNDED):
        assert refusal(model) is None


def test_the_results_say_what_was_read(path: Path, tmp_path: Path) -> None:
    inputs = {"model": path, "tasks": minimal_pairs(tmp_path / "rows")}
    found = []
    for backend in ("hf", "torch"):
        (place := tmp_path / backend).mkdir()
        _, results = evaluate(either[0].values[0], place, inputs, SUITE="tasks", BACKEND=backend)
        found.append(results)
    hf, ours = found
    assert ours["results"] == hf["results"]
    assert hf["config"]["backend"] == "hf"
    assert ours["config"]["backend"] == "torch"
    assert ours["config"]["tokens"]["tree"] < ours["config"]["tokens"]["naive"]


def test_the_old_harness_has_no_other_backend(path: Path, tmp_path: Path) -> None:
    from eval.stage import run_legacy

    with pytest.raises(InputError, match="leave BACKEND out"):
        evaluate(run_legacy, tmp_path, {"model": path}, SUITE="tasks", BACKEND="torch")


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "data/blimp").is_dir(), reason="reads ../shared/data/blimp")
def test_minimal_pairs_of_a_trained_model() -> None:
    rows = []
    for file in sorted((SHARED / "data/blimp").glob("*.jsonl")):
        lines = file.read_text(encoding="utf-8").splitlines()[:6]
        rows += [json.loads(line) for line in lines]
    sentences = [row[key] for row in rows for key in ("sentence_good", "sentence_bad")]
    hf, planned = both(SHARED / "models/stories260k")
    requests = asked("loglikelihood", *(("", sentence) for sentence in sentences))
    assert_alike(planned.loglikelihood(requests), hf.loglikelihood(requests))
    texts = asked("loglikelihood_rolling", (" ".join(sentences),), (sentences[0],))
    ours, theirs = planned.loglikelihood_rolling(texts), hf.loglikelihood_rolling(texts)
    assert ours == pytest.approx(theirs, rel=1e-5)
