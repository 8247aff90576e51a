"""The rows of a report: lineages, what may be compared, papers' values, CSV, Markdown, cards."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

from espalier.contract.manifest import check_files
from espalier.contract.pruned import (
    Foreign,
    KeptIndices,
    Padded,
    PaddedLayer,
    Sizes,
    Uniform,
)
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.commands.made_by import command_line
from eval.published import printed_values, published_as
from eval.reporting.card import model_card
from eval.reporting.collected import Checkpoint, collect
from eval.reporting.drawing import Axis, plain
from eval.reporting.facts import Facts
from eval.reporting.measured import columns, differences, overview
from eval.reporting.paper import beside_papers
from eval.reporting.plots import gone_of
from eval.reporting.summary import checkpoints_table, report_csv, scores_table
from eval.reporting.tables import NOTHING, Table, csv_text, markdown, text
from tests.unit.reported import a_store, evaluate, model, record_of

SIZES = Sizes(layers=3, hidden=8, intermediate=16, heads=4, kv_heads=2)


def checkpoints(store: Path, *names: str) -> list[Checkpoint]:
    return collect(Store(store), names)


def test_a_lineage_and_what_it_has_cost(tmp_path: Path) -> None:
    a_store(tmp_path)
    (half,) = checkpoints(tmp_path, "half")
    facts = Facts.of(half)
    assert facts.made == "llama2-7b \N{RIGHTWARDS ARROW} wanda unstructured 50%"
    assert (facts.total, facts.nonzero) == (1000, 600)
    assert facts.sparsity == facts.removed == pytest.approx(0.4)
    assert (facts.tokens, facts.flops) == (2 * 10**12, 8e22 + 1e12)


def test_what_is_not_known_is_not_nothing(tmp_path: Path) -> None:
    model(tmp_path, "plain", stage="adopt", verb="adopt")
    facts = Facts.of(checkpoints(tmp_path)[0])
    assert (facts.total, facts.sparsity, facts.tokens, facts.flops) == (None,) * 4


def test_the_padding_is_no_parameter(tmp_path: Path) -> None:
    counts = {"parameters": 1000, "padding": 200, "nonzero": 800}
    model(tmp_path, "padded", model=counts)
    facts = Facts.of(checkpoints(tmp_path)[0])
    assert (facts.total, facts.sparsity) == (800, 0)


def test_a_trained_checkpoint_goes_by_the_method_that_pruned_it(tmp_path: Path) -> None:
    half = a_store(tmp_path)
    inputs = {"model": record_of(tmp_path, half)}
    model(
        tmp_path, "again", stage="train-gpu", verb="train", inputs=inputs, model={"parameters": 9}
    )
    facts = Facts.of(checkpoints(tmp_path, "again")[0])
    assert facts.made.endswith("wanda unstructured 50% \N{RIGHTWARDS ARROW} train-gpu")
    assert facts.method == "wanda"


def test_a_column_holds_what_was_measured_in_one_way(tmp_path: Path) -> None:
    a_store(tmp_path)
    found = columns(checkpoints(tmp_path))
    labels = [column.label for column in found]
    assert labels == ["perplexity/wikitext2 ppl", "mean of 2 tasks acc", "boolq acc", "rte acc"]
    assert [column.label for column in overview(found)] == labels[:2]
    assert all(set(column.values) == {0, 1} for column in found)
    assert differences(found) == []
    mean = found[1].values[1]
    assert mean.value == pytest.approx(0.745)
    assert mean.stderr == pytest.approx(0.03 / 2**0.5)


def test_what_a_suite_names_is_what_counts(tmp_path: Path) -> None:
    half = a_store(tmp_path)
    named = {"boolq": "acc_norm,none", "rte": "acc,none"}
    evaluate(tmp_path, half, 6.6, 0.7, suite="study", named=named)
    alone = {"boolq": "acc_norm,none"}
    evaluate(tmp_path, half, 6.6, 0.6, suite="lone", named=alone, harness="0.3.0")
    (checkpoint,) = checkpoints(tmp_path, "half")
    shown = {column.label: column.first for column in overview(columns([checkpoint]))}
    mean = next(one for one in shown.values() if one.suite == "study" and "mean" in one.task)
    assert (mean.metric, mean.value) == ("acc_norm or acc", pytest.approx((0.6 + 0.7) / 2))
    assert dict(mean.protocol)["metrics"] == "acc_norm, acc"
    assert mean.is_fraction
    plain_mean = next(one for one in shown.values() if one.suite == "whole" and "mean" in one.task)
    assert (plain_mean.metric, plain_mean.value) == ("acc", pytest.approx(0.745))
    beside = [each for each in beside_papers([checkpoint]) if each.printed.task == "boolq"]
    wanda = next(each for each in beside if each.printed.of[1:] == ("wanda", "0.5", ""))
    assert wanda.ours == pytest.approx(60.0)  # plain acc of the paper's harness, named or not


def test_a_group_counts_once(tmp_path: Path) -> None:
    half = a_store(tmp_path)
    path = tmp_path / "evals" / half.name / "whole" / "results.json"
    results = json.loads(path.read_text())
    results["group_subtasks"] = {"boolq": ["rte"]}
    path.write_text(json.dumps(results))
    (checkpoint,) = checkpoints(tmp_path, "half")
    labels = [column.label for column in overview(columns([checkpoint]))]
    assert labels == ["perplexity/wikitext2 ppl", "boolq acc"]


def test_with_examples_is_another_measurement_than_the_papers(tmp_path: Path) -> None:
    half = a_store(tmp_path)
    evaluate(tmp_path, half, 6.6, 0.9, suite="a-shown", shots=5, harness="0.3.0")
    found = beside_papers(checkpoints(tmp_path))
    assert max(each.ours or 0 for each in found if each.printed.metric == "acc") < 80


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"text": {"windows": 8}}, "perplexity/wikitext2 ppl was measured in 2 ways that cannot "
         "be compared; they differ in windows."),
        ({"text": {"seqlen": 2048}}, "they differ in tokens a window."),
        ({"text": {"sha256": "b" * 64}}, "they differ in token ids."),
        ({"harness": "0.3.0"}, "boolq acc was measured in 2 ways that cannot be compared; they "
         "differ in lm-eval."),
        ({"shots": 5}, "they differ in shots."),
        ({"limit": 25}, "they differ in rows."),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_has_a_column_of_its_own(
    tmp_path: Path, other: dict[str, object], said: str
) -> None:
    half = a_store(tmp_path)
    evaluate(tmp_path, half, 7.0, 0.6, suite="other", **other)  # type: ignore[arg-type]
    found = columns(checkpoints(tmp_path))
    assert any(said in sentence for sentence in differences(found))
    labels = [column.label for column in found]
    assert len(set(labels)) == len(labels) > 4
    table = checkpoints_table(checkpoints(tmp_path), found)
    assert any(said in note for note in table.notes)


def test_an_evaluation_of_what_had_the_name_before_is_left_out(tmp_path: Path) -> None:
    half = a_store(tmp_path)
    (half / "config.json").write_text("{}")
    record = (half / "manifest.json").read_text()
    was = record_of(tmp_path, half)["content"]
    (half / "manifest.json").write_text(record.replace(was, "f" * 64))
    (found,) = checkpoints(tmp_path, "half")
    assert (found.evaluations, found.outdated) == ((), ("whole",))
    table = checkpoints_table([found], columns([found]))
    assert any("half: whole measured what had this name before" in note for note in table.notes)


def test_papers_values_within_the_band_outside_it_and_not_run(tmp_path: Path) -> None:
    a_store(tmp_path)
    found = beside_papers(checkpoints(tmp_path))
    assert {each.printed.model for each in found} == {"llama2-7b"}
    marks = {
        (each.printed.method, each.printed.setting, each.printed.task): each.mark for each in found
    }
    (dense,) = (e for e in found if e.printed.method == "dense" and e.printed.seqlen == 4096)
    assert dense.mark == "within"  # 5.13 of 5.12, half a percent
    half = "wanda", "0.5"
    assert marks[*half, "perplexity/wikitext2"] == "outside"  # 6.60 of 6.42, one percent
    assert marks[*half, "boolq"] == "within"  # 74.5 of 75.0
    assert marks[*half, "rte"] == "outside"
    assert marks[*half, "hellaswag"] == marks["sparsegpt", "2:4", "boolq"] == "not run"


def test_ours_is_of_the_harness_that_the_paper_used(tmp_path: Path) -> None:
    half = a_store(tmp_path)
    evaluate(tmp_path, half, 6.42, 0.752, suite="zz-legacy", harness="0.3.0")
    found = {
        each.printed.task: each
        for each in beside_papers(checkpoints(tmp_path))
        if each.printed.method == "wanda" and each.printed.setting == "0.5"
    }
    assert found["boolq"].ours == pytest.approx(75.2)
    assert found["boolq"].whose == "half, zz-legacy, lm-eval 0.3.0"
    assert found["perplexity/wikitext2"].whose == "half, whole"  # the first: no harness is in it


def test_two_of_one_name_are_told_apart(tmp_path: Path) -> None:
    a_store(tmp_path)
    model(tmp_path, "half", "models", "adopt", verb="adopt")
    found = checkpoints(tmp_path)
    assert [each.shown for each in found] == ["models/half", "llama2-7b", "checkpoints/half"]
    assert [len(each.evaluations) for each in found] == [0, 1, 1]


@pytest.mark.parametrize("other", [{"text": {"windows": 8}}, {"text": {"seqlen": 2048}}])
def test_a_printed_value_stands_beside_the_same_measurement_alone(
    tmp_path: Path, other: dict[str, dict[str, int]]
) -> None:
    model(tmp_path, "llama2-7b", "models", "fetch", verb="fetch")
    evaluate(tmp_path, tmp_path / "models" / "llama2-7b", 5.12, 0.5, **other)  # type: ignore[arg-type]
    found = beside_papers(checkpoints(tmp_path))
    assert {each.mark for each in found if each.printed.seqlen == 4096} == {"not run"}


def test_every_printed_value_has_a_band() -> None:
    values = printed_values()
    masked = [each for each in values if each.method in ("magnitude", "wanda", "sparsegpt")]
    assert len(masked) == 3 * 3 * 3 + 3 * 3 * 7 + 4  # and of LLaMA-1-7B
    numbers = [each for each in values if isinstance(each.value, float) and not each.why]
    measured = [each for each in numbers if each.task != "parameters"]
    assert all(0 < each.band < each.value for each in measured)
    assert {each.band for each in values if each.metric.startswith("acc")} == {1.5}
    assert len({(each.source, *each.of, each.task, each.seqlen) for each in values}) == len(values)


def test_what_was_adopted_is_of_no_known_parent(tmp_path: Path) -> None:
    assert published_as({"verb": "adopt", "inputs": {}, "pruning": {
        "pattern": "2:4", "target": 0.5, "achieved": 0.5}}) is None  # fmt: skip


def test_csv_has_a_line_a_checkpoint_and_no_formulas(tmp_path: Path) -> None:
    a_store(tmp_path)
    found = checkpoints(tmp_path)
    lines = list(csv.DictReader(io.StringIO(report_csv(found, columns(found)))))
    assert [line["checkpoint"] for line in lines] == ["llama2-7b", "half"]
    assert float(lines[1]["boolq acc"]) == 0.745
    assert float(lines[1]["boolq acc stderr"]) == 0.03
    assert lines[0]["removed"] == ""
    assert "'=1+1,'@x,1,\r\n" in csv_text(["a"], [["=1+1", "@x", 1, None]])


def test_markdown_shows_names_as_they_are() -> None:
    table = Table.of("a|b", ["<b>", "n"], [[text("[x](y)`*_"), text("two\nlines")]])
    shown = markdown(table)
    assert r"## a\|b" in shown
    assert r"| \<b\> | n |" in shown
    assert r"| \[x\](y)\`\*\_ | two lines |" in shown
    assert "|" not in markdown(Table.of("empty", ["a"], [], ["Nothing."]))


def test_scores_with_their_errors(tmp_path: Path) -> None:
    a_store(tmp_path)
    found = checkpoints(tmp_path)
    table = scores_table(found, columns(found))
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert shown["boolq acc"] == ["77.7 ± 3.0 %", "74.5 ± 3.0 %"]
    assert shown["perplexity/wikitext2 ppl"] == ["5.130 ± 0.100", "6.600 ± 0.100"]


def test_what_is_gone_of_each_layer(tmp_path: Path) -> None:
    a_store(tmp_path)
    (half,) = checkpoints(tmp_path, "half")
    assert gone_of(half.manifest.pruning) == {"self_attn.q_proj": [0, 0.25, 0.5]}
    shorter = Uniform(
        before=SIZES, after=SIZES.model_copy(update={"layers": 2, "intermediate": 12}),
        achieved=0.4, kept=KeptIndices(layers=(0, 2)), dropped_layers=(1,),
    )  # fmt: skip
    assert gone_of(shorter) == {"layer": [0, 1, 0], "intermediate": [0.25, 1, 0.25]}
    narrow = PaddedLayer(heads=4, kv_heads=2, intermediate=8, padding={"intermediate": ((8, 16),)})
    full = PaddedLayer(heads=4, kv_heads=2, intermediate=16)
    padded = Padded(before=SIZES, after=SIZES, achieved=0.1, layers=(full, narrow, full))
    assert gone_of(padded)["intermediate"] == [0, 0.5, 0]
    facts = {"padded": padded.model_dump(mode="json")}
    compact = Foreign(form="x", description="y", image="eval", achieved=0.1, facts=facts)
    assert gone_of(compact) == gone_of(padded)
    assert gone_of(None) == {}


def test_latency_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    a_store(tmp_path)
    assert "latency" not in checkpoints_table(checkpoints(tmp_path), []).headings
    notes = {"milliseconds": {"padded": 9.0, "compact": 7.25}, "timed_tokens": 512}
    model(tmp_path, "compact", stage="compact", verb="convert", notes=notes)
    table = checkpoints_table(checkpoints(tmp_path), [])
    place = table.headings.index("latency")
    assert [row[place].text for row in table.rows] == [NOTHING, "7.2 ms / 512 tokens", NOTHING]


def test_a_code_block_of_a_card_ends_where_its_commands_end(tmp_path: Path) -> None:
    a_store(tmp_path)
    card = model_card(checkpoints(tmp_path, "half")[0], lambda manifest: "make x Y='````'")
    assert "`````bash\nmake x Y='````'\n`````\n" in card


def test_a_card_has_the_hubs_header_and_says_how_it_was_made(tmp_path: Path) -> None:
    half = a_store(tmp_path)
    (found,) = checkpoints(tmp_path, "half")
    card = model_card(found, command_line)
    _, header, body = card.split("---\n", 2)
    said = yaml.safe_load(header)
    assert (said["base_model"], said["license"]) == ("meta-llama/Llama-2-7b-hf", "mit")
    assert {"pruning", "masked", "wanda"} <= set(said["tags"])
    assert said["espalier"]["sparsity"] == 0.4
    (index,) = said["model-index"]
    scores = {(r["dataset"]["name"], r["metrics"][0]["type"]): r["metrics"][0]["value"]
              for r in index["results"]}  # fmt: skip
    assert scores["boolq", "acc"] == 0.745
    assert scores["perplexity/wikitext2", "perplexity"] == 6.6
    assert "make fetch MODEL=llama2-7b REVISION=main\n" in body
    pruned = "make prune-wanda MODEL=llama2-7b SPARSITY=0.5 PATTERN=unstructured SEED=0 NAME=half\n"
    assert pruned in body
    assert "make eval CKPT=half SUITE=perplexity NAME=whole\n" in body
    assert check_files(half) == 1  # nothing is written into what is published


def test_a_licence_and_a_parent_that_nobody_states_are_left_out(tmp_path: Path) -> None:
    model(tmp_path, "plain", stage="adopt", verb="adopt", model={"parameters": 4})
    card = model_card(checkpoints(tmp_path)[0], lambda manifest: None)
    said = yaml.safe_load(card.split("---\n")[1])
    assert not {"license", "base_model", "model-index"} & set(said)
    assert "No licence is recorded" in card
    assert "How it was made" not in card


def test_names_are_not_found_or_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no model; make one"):
        checkpoints(tmp_path)
    half = a_store(tmp_path)
    with pytest.raises(InputError, match="CKPTS=other is not on the store; make list shows"):
        checkpoints(tmp_path, "half", "other")
    assert len(checkpoints(tmp_path, "half", "checkpoints/half")) == 1
    (tmp_path / "evals" / half.name / "whole" / "results.json").write_text("[]")
    with pytest.raises(InputError, match=r"results\.json cannot be read"):
        checkpoints(tmp_path, "half")


def test_axes_hold_all_values_and_few_round_numbers() -> None:
    for values in ([1.0, 2.0], [5.0], [0.0], [-3.0, 7.0], [1e6, 7e9], [3.3e21, 3.3e21 + 1e12]):
        axis = Axis.around(values, 0, 100)
        assert all(0 <= axis.place(value) <= 100 for value in values)
        assert 1 <= len(axis.ticks()) <= 12
    assert [plain(v) for v in (134.5e6, 2e12, 3.31e21, 0.046, 2e-5, 0)] == [
        *("134.5M", "2T", "3.31e21", "0.046", "2e-5", "0"),
    ]
