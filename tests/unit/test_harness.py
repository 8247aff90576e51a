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
from espalier.data.task_rows import example_files, task_files  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from espalier.models import products  # noqa: E402
from espalier.models.tokenizer import load_tokenizer, probe_hash  # noqa: E402
from eval.questions import Reader  # noqa: E402
from eval.samples.sample import read_samples  # noqa: E402
from eval.spec import TorchEvalParameters  # noqa: E402
from eval.stage import run, run_legacy  # noqa: E402
from eval.suites.suite import SUITES  # noqa: E402
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
    "piqa": {"goal": "the fox", "sol1": "jumps over", "sol2": "dog", "label": 0},
    "sciq": {
        "question": "the fox",
        "support": "a dog",
        "correct_answer": "quick",
        **{f"distractor{n}": word for n, word in enumerate(("lazy", "over", "the"), 1)},
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
    outcome = stage(context, TorchEvalParameters.from_assignments(given))
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


@pytest.mark.parametrize("suite", ["paper-zero-shot", "wanda-table", "llm-pruner-table"])
@pytest.mark.parametrize("stage", either)
def test_the_papers_tasks_run_from_rows(
    model: Path, tmp_path: Path, stage: Any, suite: str
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, row in ROWS.items():
        write_rows(folder / f"{name}.jsonl", [row] * 2)
    inputs = {"model": model, "tasks": folder}
    outcome, results = evaluate(stage, tmp_path, inputs, SUITE=suite)
    entries = SUITES[suite].tasks
    assert results["results"].keys() == {entry.name for entry in entries}
    for entry in entries:
        key = f"{entry.metric},none"
        assert results["configs"][entry.name]["metadata"]["metric"] == key
        assert 0 <= results["results"][entry.name][key] <= 1
        assert outcome.notes["results"][entry.name] == results["results"][entry.name][key]
    assert results["versions"].keys() == results["results"].keys()
    assert set(results["n-shot"].values()) == {0}
    assert results["config"]["begin_token"].keys() == {"token", "before", "rolling"}


def with_examples(folder: Path, count: int = 4) -> Path:
    """Rows of winogrande, and others that examples are drawn from."""
    folder.mkdir()
    write_rows(folder / "winogrande.jsonl", [ROWS["winogrande"]] * 3)
    drawn = [{**ROWS["winogrande"], "sentence": f"{n} dogs and _ jump"} for n in range(count)]
    write_rows(folder / "winogrande.fewshot.jsonl", drawn)
    return folder


@pytest.mark.parametrize("stage", either)
def test_one_task_with_and_without_examples(
    model: Path, tmp_path: Path, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    check = Reader.check

    def seen(self: Reader, questions: Any) -> None:
        questions = list(questions)
        asked.extend(question.context for question in questions)
        check(self, questions)

    monkeypatch.setattr(Reader, "check", seen)
    folder = with_examples(tmp_path / "rows")
    inputs = {"model": model, "tasks": folder}
    _, results = evaluate(stage, tmp_path, inputs, SUITE="tasks", TASKS="winogrande:2,winogrande")
    assert results["results"].keys() == {"winogrande", "winogrande:2"}
    assert results["n-shot"] == {"winogrande": 0, "winogrande:2": 2}
    assert results["n-samples"]["winogrande:2"] == {"original": 3, "effective": 3}
    plain, shown = (results["configs"][t]["metadata"] for t in ("winogrande", "winogrande:2"))
    assert plain["rows_sha256"] == shown["rows_sha256"]
    assert shown["examples_sha256"]
    assert results["task_hashes"].keys() == results["results"].keys()
    few, none = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    assert {context.count("dogs and") for context in few} == {2}
    assert {context.count("dogs and") for context in none} == {0}


@pytest.mark.parametrize("stage", either)
def test_what_is_asked_and_cannot_be_had_is_refused_before_a_model_is_loaded(
    model: Path, tmp_path: Path, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*given: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("eval.evaluation.load_model", loaded)
    folder = with_examples(tmp_path / "rows")
    write_rows(folder / "arc_easy.jsonl", [ARC])
    write_rows(folder / "pairs.jsonl", [PAIR])
    release = version("lm_eval")
    for words, says in {
        "arc_easy:0:acc_nrm": f"arc_easy has no metric acc_nrm in lm-eval {release}; name one of "
        "acc, acc_norm.",
        "pairs::acc_norm": "name one of acc.",
        "arc_easy:2": "needs arc_easy.fewshot.jsonl beside its rows",
        "winogrande:5": "winogrande.fewshot.jsonl has 4 rows, and 5 examples are drawn from it",
        "pairs:1": "pairs",
        "missing:1:acc": "lacks missing.jsonl",
    }.items():
        with pytest.raises(InputError) as refused:
            (place := tmp_path / words.replace(":", "-")).mkdir()
            evaluate(stage, place, {"model": model, "tasks": folder}, SUITE="tasks", TASKS=words)
        assert says in str(refused.value)


def test_files_of_examples_are_no_tasks(tmp_path: Path) -> None:
    folder = with_examples(tmp_path / "rows")
    assert task_files(folder, []).keys() == {"winogrande"}
    assert example_files(folder, ["winogrande", "boolq"]).keys() == {"winogrande"}
    write_rows(folder / "winogrande.fewshot.jsonl", [{"sentence": "no gap"}])
    with pytest.raises(InputError, match=r"fewshot\.jsonl:1 has sentence"):
        example_files(folder, ["winogrande"])


def rows_of_mmlu() -> list[dict[str, Any]]:
    """A row of each subject."""
    from eval.task_groups import parts_of
    from eval.tasks import SHIPPED_GROUPS, _index

    index = _index(SHIPPED_GROUPS["mmlu"])
    row = {"question": "the fox?", "choices": ["a", "b", "c", "d"], "answer": 1}
    return [{**row, "subject": part} for part in parts_of(index["mmlu"], index)]


@legacy
def test_0_3_0_takes_no_single_row(model: Path, tmp_path: Path) -> None:
    """It divides by one less than there are."""
    inputs = {"model": model, "tasks": minimal_pairs(tmp_path / "rows")}
    with pytest.raises(InputError, match=r"word_order\.jsonl has one row to ask"):
        evaluate(run_legacy, tmp_path, inputs, SUITE="tasks", LIMIT="1")


@current
def test_the_collections_twenty_entries(model: Path, tmp_path: Path) -> None:
    """Also a group, whose tasks get their rows of one file, and the same task in two ways."""
    targets = {"choices": ["jumps over", "the dog"], "labels": [1, 0]}
    true = {"question": "the fox?", "mc1_targets": targets, "mc2_targets": targets}
    nli = {"premise": "the fox", "hypothesis": "a dog", "label": 1}
    others: dict[str, dict[str, Any]] = {
        **{f"anli_r{n}": nli for n in (1, 2, 3)},
        **{f"truthfulqa_mc{n}": true for n in (1, 2)},
        "record": {
            "passage": "the fox and the dog.\n@highlight\nit jumps",
            "query": "@placeholder jumps",
            "entities": ["fox", "dog"],
            "answers": ["fox"],
        },
    }
    (folder := tmp_path / "rows").mkdir()
    for name, row in (ROWS | others).items():
        write_rows(folder / f"{name}.jsonl", [row] * 2)
        write_rows(folder / f"{name}.fewshot.jsonl", [row] * 25)
    subjects = rows_of_mmlu()
    assert len(subjects) == 57
    write_rows(folder / "mmlu.jsonl", [*subjects, subjects[0]])
    write_rows(folder / "mmlu.fewshot.jsonl", subjects * 5)
    inputs = {"model": model, "tasks": folder}
    given = {"SUITE": "collection", "BATCH": "32", "LOG_SAMPLES": "1"}
    outcome, results = evaluate(run, tmp_path, inputs, **given)
    assert len(SUITES["collection"].tasks) == 20
    for entry in SUITES["collection"].tasks:
        key = results["configs"][entry.label]["metadata"]["metric"]
        assert key == f"{entry.metric},none"
        assert 0 <= results["results"][entry.label][key] <= 1
        assert results["n-shot"][entry.label] == entry.shots
        assert results["versions"][entry.label]
        rows = 58 if entry.name == "mmlu" else 2
        assert results["n-samples"][entry.label] == {"original": rows, "effective": rows}
        drawn = "examples_sha256" in results["configs"][entry.label]["metadata"]
        assert drawn == bool(entry.shots)
    assert results["n-shot"]["mmlu_astronomy:5"] == 5
    samples = read_samples(tmp_path / "out")
    groups = {"mmlu", "mmlu:5"}
    assert samples.keys() | groups == results["configs"].keys()
    assert not samples.keys() & groups
    for task, asked in samples.items():
        documents = {sample.document for sample in asked}
        assert len(documents) == results["n-samples"][task]["effective"]
    assert {entry.label for entry in SUITES["collection"].tasks} <= outcome.notes["results"].keys()


@current
def test_rows_of_a_group_that_do_not_fit_are_refused(model: Path, tmp_path: Path) -> None:
    subjects = rows_of_mmlu()
    (folder := tmp_path / "rows").mkdir()
    inputs = {"model": model, "tasks": folder}
    named = {
        f"has no rows of {subjects[0]['subject']}; give those of every part": subjects[1:],
        'mmlu.jsonl:1 has subject "knitting"': [{**subjects[0], "subject": "knitting"}],
    }
    for number, (says, rows) in enumerate(named.items()):
        write_rows(folder / "mmlu.jsonl", rows)
        (place := tmp_path / str(number)).mkdir()
        assert says in refusal(place, inputs, SUITE="tasks", TASKS="mmlu")
    write_rows(folder / "mmlu.jsonl", subjects)
    (last := tmp_path / "last").mkdir()
    said = refusal(last, inputs, SUITE="tasks", TASKS="mmlu:5")
    assert "needs mmlu.fewshot.jsonl beside its rows" in said


@current
def test_a_name_of_several_tasks_and_no_name_at_all_are_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eval import tasks

    read = tasks._index
    monkeypatch.setattr(tasks, "_index", lambda folder: read(folder or "anli"))
    (folder := tmp_path / "rows").mkdir()
    inputs = {"model": model, "tasks": folder}
    for name, says in {
        "anli": "several tasks that has no value of its own; name the tasks: anli_r1, anli_r2",
        "nosuch": "nosuch is not a task of lm-eval",
    }.items():
        write_rows(folder / f"{name}.jsonl", [{"a": "b"}])
        (place := tmp_path / name).mkdir()
        assert says in refusal(place, inputs, SUITE="tasks", TASKS=name)


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
    row = {"sentence_good": "a<pad>", "sentence_bad": "a"}
    write_rows(folder / "word_order.jsonl", [row] * 2)
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
