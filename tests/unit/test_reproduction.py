"""Every method's reproduce.toml holds, its words are valid, its plan is the paper's table."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.discovery import methods, stage_named
from espalier.contract.reproduction import (
    DENSE,
    FILE,
    Reproduction,
    fitted,
    read_reproduction,
    reproducible,
    reproduction_of,
)
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.commands.filling import fill
from espalier.host.commands.reproduction import ReproduceCommand
from espalier.host.draft import Draft
from espalier.host.listings import folder_of
from espalier.models.aliases import model_aliases
from tests.tiny_tokenizer import SHAPE

MODELS = [(name, model) for name in reproducible() for model in reproduction_of(name).models]
NAMES = tuple(reproducible())
TOY = """
paper = "A paper"
[models]
llama2-7b = {}
[rows]
"half" = { SPARSITY = "0.5" }
[[columns]]
source = "its table"
words = { SUITE = "perplexity", DATA = "wikitext2", SEQLEN = "4096" }
band = 0.01
values.llama2-7b = { dense = 5.12, half = 6.42 }
"""


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    return Draft(Store(tmp_path / "store"))


def words(name: str, folder: Path, **others: str) -> dict[str, str]:
    """What the command needs, and others; DOMAIN_DATA is as far as a plan looks at it."""
    if name == "sheared-llama":
        (folder / "domains").mkdir(exist_ok=True)
        (folder / "domains" / "tokens.json").touch()
        others["DOMAIN_DATA"] = str(folder / "domains")
    return others


def count(draft: Draft) -> Counter[str]:
    return Counter(request.stage.verb for request in draft.requests.values())


def toy(folder: Path, text: str = TOY) -> Reproduction:
    path = folder / FILE
    path.write_text(text)
    return read_reproduction("magnitude", path)


def test_every_folder_of_methods_has_a_table() -> None:
    folders = {folder_of(stage).removeprefix("methods/") for stage in methods().values()}
    assert {name.replace("-", "_") for name in NAMES} == folders


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_the_plan_of_a_paper_is_its_table(
    name: str, model: str, draft: Draft, tmp_path: Path
) -> None:
    """A pruning for each row, and each evaluation of the dense model and of every row, once."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    reproduction = reproduction_of(name)
    given = words(name, tmp_path, MODEL=model, TASK_DATA=str(tasks))
    filled = fill(ReproduceCommand.parse(name, given), draft)
    rows = reproduction.rows_of(model)
    assert [each.row for each in filled] == [DENSE, *rows]
    made = count(draft)
    columns = {tuple(c.words.items()) for c in reproduction.columns_of(model) if c.words}
    assert made["prune"] == len(rows)
    assert made["eval"] == len(columns) * (1 + len(rows))
    assert made["train"] == (len(rows) if reproduction.train and columns else 0)
    assert made["fetch"] == 1
    # All that is asked for is in a step, in whose order it can be made.
    asked = {path for step in draft.plan(filled[-1].model).steps for path in step.outputs}
    assert asked == {
        path
        for each in filled
        for path in (*([each.pruned, each.model] if each.row != DENSE else []), *each.evaluations)
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_words_are_the_papers_own(name: str, draft: Draft, tmp_path: Path) -> None:
    """None of a row's words is lost on the way to what is run."""
    reproduction = reproduction_of(name)
    model = reproduction.default
    given = words(name, tmp_path, TASK_DATA=str(tmp_path))
    filled = {each.row: each for each in fill(ReproduceCommand.parse(name, given), draft)}
    shape = model_aliases()[model].shape
    for row, stated in reproduction.rows_of(model).items():
        asked = fitted({**reproduction.words, **reproduction.models[model], **stated.words}, shape)
        wanted = {k: v for k, v in asked.items() if v and k != "CALIBRATION"}
        waiting, found = [filled[row].pruned], dict[str, str]()
        while waiting:
            request = draft.requests[waiting.pop()]
            told = {k.upper().rstrip("_"): str(v) for k, v in request.parameters}
            found = {k: v for k, v in told.items() if k in wanted} | found  # a pruning's own first
            waiting += [p for p in request.inputs.values() if p.parent.parent.name == "scores"]
        assert found.keys() == wanted.keys(), row
        for word, value in wanted.items():
            flags = {"1": "True", "0": "False"} if found[word] in ("True", "False") else {}
            assert found[word] == flags.get(value, value), (row, word)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_chain_is_of_sapling(name: str, draft: Draft, tmp_path: Path) -> None:
    """Sizes in proportion, its own text, and nothing that needs a network."""
    filled = fill(ReproduceCommand.parse(name, words(name, tmp_path, MODEL="sapling")), draft)
    assert filled[0].evaluations
    assert count(draft)["prune"] >= 1
    assert {
        request.stage.name for request in draft.requests.values() if request.stage.network
    } == set()
    texts = {
        path
        for request in draft.requests.values()
        for role, path in request.inputs.items()
        if role in ("data", "calibration") and request.stage.verb != "train"
    }
    assert texts == {draft.store.root / "data" / "pydoc"}


def test_what_needs_rows_of_tasks_is_left_out_and_said(draft: Draft) -> None:
    filled = fill(ReproduceCommand.parse("minitron", {}), draft)
    assert [each.row for each in filled] == [DENSE, "width"]
    (said,) = (note for note in draft.notes if isinstance(note, str))
    assert said == (
        "Left out for want of TASK_DATA=<folder of <task>.jsonl>: winogrande:5:acc, row depth, "
        "row single layers."
    )
    with pytest.raises(InputError, match="nothing of this is measured without TASK_DATA"):
        fill(ReproduceCommand.parse("minitron", {"ONLY": "depth"}), Draft(draft.store))


def test_one_search_serves_all_rows(draft: Draft) -> None:
    fill(ReproduceCommand.parse("sleb", {"MODEL": "llama2-13b"}), draft)
    (search,) = (r for r in draft.requests.values() if r.stage.verb == "score")
    assert dict(search.parameters)["layers"] == 32  # of 40: as far as its rows go


def test_some_rows_alone(draft: Draft) -> None:
    filled = fill(ReproduceCommand.parse("wanda", {"ONLY": "2:4, dense"}), draft)
    assert [each.row for each in filled] == [DENSE, "2:4"]
    assert count(draft)["prune"] == 1


def test_a_word_of_the_users_is_in_every_row_and_in_the_names(draft: Draft) -> None:
    given = {"SAMPLES": "8", "BATCH": "2", "LIMIT": "4", "ONLY": "2:4"}
    command = ReproduceCommand.parse("wanda", given)
    assert command.otherwise == "SAMPLES=8 LIMIT=4"  # BATCH decides nothing
    (row,) = fill(command, draft)
    assert row.model.name == "llama2-7b-wanda-2of4-as-in-paper-samples-8"
    assert [path.name for path in row.evaluations] == ["wikitext2-4096-limit4"]
    parameters = dict(draft.requests[row.model].parameters)
    assert (parameters["samples"], parameters["batch"], parameters["seqlen"]) == (8, 2, 4096)


def test_a_word_has_no_part_in_rows_that_have_no_use_for_it(draft: Draft) -> None:
    fill(ReproduceCommand.parse("llm-pruner", {"SAMPLES": "4"}), draft)
    scores = {
        r.name: dict(r.parameters) for r in draft.requests.values() if r.stage.verb == "score"
    }
    assert {name: p["samples"] for name, p in scores.items()} == {
        "llama-7b/llm-pruner-bookcorpus-4x64": 4, "llama-7b/llm-pruner-magnitude": 10,
    }  # fmt: skip


def test_training_after_pruning_has_its_own_words(draft: Draft) -> None:
    given = {"MODEL": "sapling", "TRAIN_TOKENS": "4K", "ONLY": "ppl"}
    (row,) = fill(ReproduceCommand.parse("shortened-llama", given), draft)
    assert row.model.name == f"{row.pruned.name}-recover-tokens-4K"
    assert dict(draft.requests[row.model].parameters)["tokens"] == 4000
    assert draft.requests[row.evaluations[0]].inputs["model"] == row.model


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("wanda", {"ONLY": "3:4"}, "ONLY=3:4 is no row of llama2-7b here; there are dense, 0.5,"),
        ("wanda", {"ONLY": "0.7"}, "ONLY=0.7 is no row of llama2-7b"),
        ("wanda", {"LAYERS": "3"}, "LAYERS is not a parameter here"),
        ("wanda", {"TRAIN_TOKENS": "3"}, "TRAIN_TOKENS is for training; wanda trains nothing"),
        ("nothing", {}, f"nothing has no {FILE}; those that have one are flap, "),
    ],
)
def test_bad_words_are_refused(name: str, given: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ReproduceCommand.parse(name, given)


@pytest.mark.parametrize("given", [{"SAMPLES": "none"}, {"PATTERN": "5:4"}, {"MODEL": "unknown"}])
def test_values_that_do_not_hold_are_refused(given: dict[str, str], draft: Draft) -> None:
    with pytest.raises(InputError):
        fill(ReproduceCommand.parse("wanda", given), draft)


def test_a_model_of_ones_own(draft: Draft, tmp_path: Path) -> None:
    """A path: calibrated and measured on the paper's texts, within its own positions."""
    model = tmp_path / "mine"
    model.mkdir()
    config = {"model_type": "llama", **SHAPE, "max_position_embeddings": 64}
    (model / "config.json").write_text(json.dumps(config))
    filled = fill(ReproduceCommand.parse("wanda", {"MODEL": str(model)}), draft)
    request = draft.requests[filled[1].pruned]
    assert dict(request.parameters)["seqlen"] == 64
    assert request.inputs["calibration"].name == "c4"
    assert filled[1].evaluations[0].name == "wikitext2-64"


@given(st.data())
def test_a_share_of_a_size_can_be_had(data: st.DataObject) -> None:
    word = data.draw(st.sampled_from(["LAYERS", "HIDDEN", "FFN", "HEADS"]))
    layers, groups, group, whole = (
        data.draw(st.integers(low, high)) for low, high in ((1, 64), (1, 16), (1, 4), (2, 64))
    )
    part, heads = data.draw(st.integers(1, whole)), groups * group
    config = {
        "num_hidden_layers": layers, "hidden_size": 8 * heads, "intermediate_size": 16 * heads,
        "num_attention_heads": heads, "num_key_value_heads": groups,
    }  # fmt: skip
    sizes = {"LAYERS": layers, "HIDDEN": 8 * heads, "FFN": 16 * heads, "HEADS": heads}
    size = int(fitted({word: f"{part}/{whole}"}, config)[word])
    if part == whole:
        assert size == sizes[word]
    elif whole == sizes[word]:
        assert size == part
    else:
        assert size % {"HIDDEN": heads, "HEADS": group}.get(word, 1) == 0
        assert 0 <= size < sizes[word]


def test_a_share_of_what_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="LAYERS=23/32 needs the model's config"):
        fitted({"LAYERS": "23/32"}, {})
    assert fitted({"LAYERS": "23"}, {}) == {"LAYERS": "23"}


def test_a_file_is_read(tmp_path: Path) -> None:
    found = toy(tmp_path)
    assert (found.default, found.rows["half"].method) == ("llama2-7b", "magnitude")
    assert found.columns[0].measured == ("perplexity/wikitext2 ppl",)
    assert stage_named(found.rows["half"].method).verb == "prune"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("paper = ", "paper ", "is not TOML"),
        ('paper = "A paper"', "", "paper: Field required"),
        ('"half" =', '"dense" =', "dense is the row of the model before it is pruned"),
        ('SPARSITY = "0.5"', 'SPARSITY = 0.5', "rows.half.words.SPARSITY: Input should be a valid"),
        ('SPARSITY = "0.5"', 'model = "x"', "rows.half.model: Extra inputs are not permitted"),
        ('SPARSITY = "0.5"', 'models = ["x"]', "row half is of x, no model of it"),
        ("values.llama2-7b", "values.other", "its table has values of other, no model of it"),
        ("half = 6.42", "third = 6.42", "has a value of llama2-7b third, which is no row of it"),
        ("half = 6.42", "half = [6.42, 1]", "has not as many values of llama2-7b half as tasks"),
        ("band = 0.01", 'why = "x"', "a column with a why is not measured"),
        ("band = 0.01", 'fact = "parameters"', "a column is measured by words, or is a fact"),
        ("6.42 }", "inf }", "finite number"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_hold_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in TOY
    with pytest.raises(InputError, match=said):
        toy(tmp_path, TOY.replace(old, new))
