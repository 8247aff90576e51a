"""lm-eval in this process, offline, on a tiny random model: current and legacy."""

import gzip
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from espalier.contract.progress import Progress  # noqa: E402
from espalier.contract.stage import Outcome, StageContext  # noqa: E402
from espalier.data.task_rows import task_files  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from espalier.models import products  # noqa: E402
from espalier.models.tokenizer import load_tokenizer, probe_hash  # noqa: E402
from eval.spec import EvalParameters  # noqa: E402
from eval.stage import run, run_legacy  # noqa: E402
from eval.suites import PAPER_ZERO_SHOT  # noqa: E402
from tests.tiny import tiny_llama, token_rows  # noqa: E402


def installed(release: str) -> bool:
    try:
        return version("lm_eval").startswith(release)
    except PackageNotFoundError:
        return False


current = pytest.mark.skipif(not installed("0.4.13"), reason="lm-eval 0.4.13 is in the image eval")
legacy = pytest.mark.skipif(not installed("0.3.0"), reason="lm-eval 0.3.0 is in the image wanda")
either = [
    pytest.param(run, marks=current, id="eval"),
    pytest.param(run_legacy, marks=legacy, id="eval-legacy"),
]
pytestmark = pytest.mark.every_image

CHOICES = {"text": ["quick", "lazy dog"], "label": ["A", "B"]}
ARC = {"id": "1", "question": "the fox?", "choices": CHOICES, "answerKey": "B"}
ROWS: dict[str, dict[str, Any]] = {
    "boolq": {"passage": "the fox", "question": "is it", "label": 1, "idx": 0},
    "rte": {"sentence1": "the fox", "sentence2": "a dog", "label": 0, "idx": 0},
    "hellaswag": {
        "ind": 1,
        "activity_label": "Fox",
        "ctx_a": "the fox",
        "ctx_b": "it",
        "endings": ["jumps", "over", "the", "dog"],
        "label": "2",
    },
    "winogrande": {"sentence": "the _ jumps", "option1": "fox", "option2": "dog", "answer": "1"},
    "arc_easy": ARC,
    "arc_challenge": ARC,
    "openbookqa": {
        "id": "1",
        "question_stem": "the fox",
        "choices": {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]},
        "answerKey": "C",
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def minimal_pairs(folder: Path) -> Path:
    folder.mkdir()
    nouns = ["fox", "dog", "the", "over", "lazy", "quick"]
    rows = [
        {"sentence_good": f"the {n} jumps", "sentence_bad": f"jumps the {n} the"} for n in nouns
    ]
    write_rows(folder / "word_order.jsonl", rows)
    return folder


def evaluate(
    stage: Any, tmp_path: Path, inputs: dict[str, Path], **given: str
) -> tuple[Outcome, dict[str, Any]]:
    output, scratch = tmp_path / "out", tmp_path / "scratch"
    output.mkdir()
    scratch.mkdir()
    context = StageContext(inputs, output, scratch, "cpu", Progress())
    outcome = stage(context, EvalParameters.from_assignments(given))
    return outcome, json.loads((output / "results.json").read_text())


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def brute_force_accuracy(model: Path, rows: Path) -> float:
    """Summed log-probabilities of whole sentences after the end-of-text or begin token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    prefix = tokenizer.bos_token_id if installed("0.4") else tokenizer.eos_token_id

    def score(sentence: str) -> float:
        ids = [prefix, *tokenizer.encode(sentence, add_special_tokens=False)]
        with torch.no_grad():
            chances = network(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(chances[t, ids[t + 1]]) for t in range(len(ids) - 1))

    pairs = [json.loads(line) for line in rows.read_text().splitlines()]
    right = [score(pair["sentence_good"]) > score(pair["sentence_bad"]) for pair in pairs]
    return sum(right) / len(right)


@pytest.mark.parametrize("stage", either)
def test_minimal_pairs(model: Path, tmp_path: Path, stage: Any) -> None:
    folder = minimal_pairs(tmp_path / "rows")
    inputs = {"model": model, "tasks": folder}
    outcome, results = evaluate(stage, tmp_path, inputs, SUITE="tasks", BATCH="4")
    accuracy = brute_force_accuracy(model, folder / "word_order.jsonl")
    assert results["results"]["word_order"]["acc,none"] == pytest.approx(accuracy)
    assert results["n-samples"]["word_order"] == {"original": 6, "effective": 6}
    assert results["n-shot"]["word_order"] == 0
    assert results["higher_is_better"]["word_order"]["acc"] is True
    assert results["lm_eval_version"] == version("lm_eval")
    assert results["config"]["model_dtype"] == "torch.float32"
    assert results["config"]["products"] == products.NATIVE
    assert results["configs"]["word_order"]["metadata"]["rows_sha256"]
    assert results["task_hashes"].keys() == {"word_order"}
    assert outcome.notes["results"] == {"word_order": pytest.approx(accuracy)}


@pytest.mark.parametrize("stage", either)
def test_16_bit_models_are_multiplied_as_pruning_does(
    model: Path, tmp_path: Path, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several times as fast on a processor without 16-bit products, and the same arithmetic."""
    widened = products._rounded_linear
    multiplied: list[Any] = []

    def counted(input: Any, weight: Any, bias: Any = None) -> Any:
        multiplied.append(input.dtype)
        return widened(input, weight, bias)

    monkeypatch.setattr(products, "_rounded_linear", counted)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    inputs = {"model": model, "tasks": minimal_pairs(tmp_path / "rows")}
    _, results = evaluate(stage, tmp_path, inputs, SUITE="tasks", DTYPE="bfloat16")
    assert results["config"]["products"] == products.FLOAT32_ROUNDED
    assert set(multiplied) == {torch.bfloat16}


@pytest.mark.parametrize("stage", either)
def test_the_papers_tasks_run_from_rows(model: Path, tmp_path: Path, stage: Any) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, row in ROWS.items():
        write_rows(folder / f"{name}.jsonl", [row] * 2)
    inputs = {"model": model, "tasks": folder}
    _, results = evaluate(stage, tmp_path, inputs, SUITE="paper-zero-shot")
    assert results["results"].keys() == set(PAPER_ZERO_SHOT)
    for task, metrics in results["results"].items():
        assert 0 <= metrics["acc,none"] <= 1, task
    assert results["versions"].keys() == set(PAPER_ZERO_SHOT)


@current
def test_perplexity_and_tasks_share_one_file(model: Path, tmp_path: Path) -> None:
    folder = minimal_pairs(tmp_path / "rows")
    rows = token_rows(tmp_path / "ids.safetensors", rows=6, width=20)
    inputs = {"model": model, "tasks": folder, "data": rows}
    outcome, results = evaluate(run, tmp_path, inputs, LIMIT="4")
    assert results["results"].keys() == {"perplexity/ids", "word_order"}
    assert results["n-samples"]["perplexity/ids"] == {"original": 6, "effective": 4}
    assert results["configs"]["perplexity/ids"]["metadata"]["seqlen"] == 20
    assert 100 < results["results"]["perplexity/ids"]["ppl,none"] < 500
    assert outcome.data is not None
    assert outcome.data["windows"] == 4


def refusal(tmp_path: Path, inputs: dict[str, Path], **given: str) -> str:
    with pytest.raises(InputError) as error:
        evaluate(run, tmp_path, inputs, **given)
    assert not list((tmp_path / "out").iterdir())
    return str(error.value)


def test_an_evaluation_never_downloads(model: Path, tmp_path: Path) -> None:
    said = refusal(tmp_path, {"model": model}, SUITE="paper-zero-shot")
    assert "TASK_DATA" in said
    assert "never downloads" in said


def test_perplexity_needs_a_text(model: Path, tmp_path: Path) -> None:
    assert "DATA=" in refusal(tmp_path, {"model": model})


def test_missing_rows_are_named(tmp_path: Path) -> None:
    folder = minimal_pairs(tmp_path / "rows")
    with pytest.raises(InputError, match=r"lacks boolq\.jsonl"):
        task_files(folder, ["word_order", "boolq"])
    with pytest.raises(InputError, match="not a folder"):
        task_files(folder / "word_order.jsonl", [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no"):
        task_files(tmp_path / "empty", [])


@pytest.mark.parametrize("stage", either)
def test_the_harness_has_the_ids_of_tokenizer_json(tmp_path: Path, stage: Any) -> None:
    """Under a label by which transformers would build another tokenizer from the same pieces."""
    folder, results = minimal_pairs(tmp_path / "rows"), []
    for label in ("PreTrainedTokenizerFast", "LlamaTokenizerFast"):
        model = tiny_llama(tmp_path / label)
        config = json.loads((model / "tokenizer_config.json").read_text())
        config["tokenizer_class"] = label
        (model / "tokenizer_config.json").write_text(json.dumps(config))
        place = tmp_path / f"{label}-run"
        place.mkdir()
        _, found = evaluate(stage, place, {"model": model, "tasks": folder}, SUITE="tasks")
        results.append(found["results"])
    assert results[0] == results[1]


@pytest.mark.parametrize("stage", either)
def test_a_token_beyond_the_embedding_is_refused_in_rows(tmp_path: Path, stage: Any) -> None:
    model, folder = tiny_llama(tmp_path / "model"), minimal_pairs(tmp_path / "rows")
    content = json.loads((model / "tokenizer.json").read_text())
    pad = content["added_tokens"][0] | {"id": 288, "content": "<pad>"}
    content["added_tokens"].append(pad)
    (model / "tokenizer.json").write_text(json.dumps(content))
    inputs = {"model": model, "tasks": folder}
    place = tmp_path / "good"
    place.mkdir()
    evaluate(stage, place, inputs, SUITE="tasks")
    write_rows(folder / "word_order.jsonl", [{"sentence_good": "a<pad>", "sentence_bad": "a"}])
    with pytest.raises(InputError, match="a<pad>' has token id 288 and the embedding has 288"):
        evaluate(stage, tmp_path, inputs, SUITE="tasks")


@pytest.mark.parametrize("stage", either)
def test_rows_come_in_any_form_that_can_be_read(model: Path, tmp_path: Path, stage: Any) -> None:
    folder = minimal_pairs(tmp_path / "rows")
    lines = (folder / "word_order.jsonl").read_bytes()
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "word_order.jsonl.gz").write_bytes(gzip.compress(lines))
    found = []
    for rows in (folder, tmp_path / "packed"):
        place = tmp_path / f"{rows.name}-run"
        place.mkdir()
        outcome, _ = evaluate(stage, place, {"model": model, "tasks": rows}, SUITE="tasks")
        found.append(outcome.notes)
    assert found[0] == found[1]
    assert found[0]["tokenizer_probe"] == probe_hash(load_tokenizer(model))


def test_rows_that_are_unclear_are_refused(tmp_path: Path) -> None:
    folder = minimal_pairs(tmp_path / "rows")
    (folder / "word_order.json").touch()
    with pytest.raises(InputError, match=r"has word_order\.json and word_order\.jsonl; take one"):
        task_files(folder, [])
    (folder / "word_order.json").rename(folder / "piqa.csv")
    with pytest.raises(InputError, match=r"piqa\.csv holds no rows that can be read"):
        task_files(folder, [])
    assert task_files(folder, ["word_order"]).keys() == {"word_order"}


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    from eval.model import load_model

    (tmp_path / "pytorch_model.bin").touch()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="nothing pickled is loaded"):
        load_model(tmp_path, "auto", "cpu")


def with_changed(row: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The row with columns changed, or taken out where the value is `...`."""
    return {k: v for k, v in {**row, **values}.items() if v is not ...}


PAIR = {"sentence_good": "the fox jumps", "sentence_bad": "jumps the fox the"}
UNFIT = [
    ("pairs", with_changed(PAIR, sentence_bad=...), "has no sentence_bad"),
    ("pairs", with_changed(PAIR, sentence_bad=7), "has sentence_bad 7; it has to be a text"),
    ("pairs", with_changed(PAIR, sentence_good=" "), 'has sentence_good " "; it has to be a text'),
    ("pairs", with_changed(PAIR, sentence_good="the " * 200), "has an answer of "),
    ("pairs", with_changed(PAIR, other=3), "has a number in other where rows before have a text"),
    (
        "boolq",
        with_changed(ROWS["boolq"], label=2),
        "has label 2; it has to be a number from 0 to 1",
    ),
    ("boolq", with_changed(ROWS["boolq"], passage=None), "has passage null"),
    ("hellaswag", with_changed(ROWS["hellaswag"], endings=["a"]), "has to be a list of 4 texts"),
    ("hellaswag", with_changed(ROWS["hellaswag"], label=""), "a number from 0 to 3"),
    ("winogrande", with_changed(ROWS["winogrande"], sentence="no gap"), "a text with _"),
    ("winogrande", with_changed(ROWS["winogrande"], answer=1), "one of 1, 2, a text"),
    ("arc_easy", with_changed(ARC, choices={"text": ["a"], "label": ["A", "B"]}), "as many texts"),
    ("arc_easy", with_changed(ARC, answerKey="F"), "has answerKey F; it has to be one of"),
    ("openbookqa", with_changed(ROWS["openbookqa"], question_stem=...), "has no question_stem"),
]


@pytest.mark.parametrize("unfit", UNFIT)
@pytest.mark.parametrize("stage", either)
def test_a_row_that_does_not_fit_is_named_before_a_model_is_loaded(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: Any,
    unfit: tuple[str, dict[str, Any], str],
) -> None:
    task, row, says = unfit

    def loaded(*given: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("eval.evaluation.load_model", loaded)
    (folder := tmp_path / "rows").mkdir()
    good = {**PAIR, "other": "x"} if "other" in row else ROWS.get(task, PAIR)
    path = folder / f"{task}.jsonl"
    path.write_text(f"{json.dumps(good)}\n\n{json.dumps(row)}\n{json.dumps(good)}\n")
    with pytest.raises(InputError) as refused:
        evaluate(stage, tmp_path, {"model": model, "tasks": folder}, SUITE="tasks", LIMIT="3")
    assert says in str(refused.value)
    assert f"{path}:3" in str(refused.value)


@pytest.mark.parametrize(
    "text", [b"[1]\n", b"{'a': 1}\n", b'{"a": "\xff"}\n', b'{"a": 1}{"b": 2}\n']
)
def test_lines_that_are_no_rows_are_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(json.dumps(PAIR).encode() + b"\n" + text)
    with pytest.raises(InputError, match=r"a\.jsonl:2 is not JSON lines"):
        task_files(tmp_path, [])
    (tmp_path / "a.jsonl").write_bytes(b"\n \n")
    with pytest.raises(InputError, match="holds no rows"):
        task_files(tmp_path, [])


@pytest.mark.parametrize("stage", either)
def test_a_tokenizer_without_begin_and_end_is_refused_only_where_one_is_needed(
    tmp_path: Path, stage: Any
) -> None:
    bare = tiny_llama(tmp_path / "model")
    said = ("bos_token", "eos_token", "bos_token_id", "eos_token_id")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "config.json"):
        if (bare / name).is_file():
            told = json.loads((bare / name).read_text())
            kept = {k: v for k, v in told.items() if k not in said}
            (bare / name).write_text(json.dumps(kept))
    (folder := tmp_path / "rows").mkdir()
    write_rows(folder / "boolq.jsonl", [ROWS["boolq"]] * 2)
    _, results = evaluate(stage, tmp_path, {"model": bare, "tasks": folder}, SUITE="tasks")
    assert 0 <= results["results"]["boolq"]["acc,none"] <= 1
    write_rows(folder / "pairs.jsonl", [PAIR])
    (again := tmp_path / "again").mkdir()
    with pytest.raises(InputError, match=r"pairs\.jsonl:1 .* the model's tokenizer has neither"):
        evaluate(stage, again, {"model": bare, "tasks": folder}, SUITE="tasks")
    text = tmp_path / "a.txt"
    text.write_text("the quick brown fox " * 60)
    (last := tmp_path / "last").mkdir()
    _, results = evaluate(stage, last, {"model": bare, "data": text}, SUITE="quick")
    assert results["results"]["perplexity/a"]["ppl,none"] > 1
