"""The tables, from results.json files alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from espalier.contract.paths import ROOT
from espalier.contract.pruned import KeptIndices, Masked, Sizes, Uniform
from espalier.errors import InputError
from eval.published import printed_values, published_as
from eval.report import (
    NO_SPEED,
    Evaluation,
    against_published,
    comparison,
    markdown,
    report,
    rows,
)

SHORTER = Uniform(
    before=None,
    after=Sizes(layers=23, hidden=4096, intermediate=11008, heads=32, kv_heads=32),
    achieved=0.27,
    kept=KeptIndices(layers=tuple(range(23))),
    dropped_layers=tuple(range(23, 32)),
)


def evaluation(
    store: Path, name: str, ppl: float, accuracy: float, nonzero: int = 0, **about: Any
) -> Path:
    directory = store / "evals" / name / "quick"
    directory.mkdir(parents=True)
    record = {"seqlen": 4096, "windows": 83, "windows_available": 83, "sha256": "a"} | about
    results = {
        "results": {
            "perplexity/wikitext2": {"ppl,none": ppl, "ppl_stderr,none": 0.1},
            "boolq": {"acc,none": accuracy, "acc_stderr,none": 0.01, "acc_norm,none": 0.5},
        },
        "configs": {"perplexity/wikitext2": {"metadata": record}},
        "model_name": name,
        "lm_eval_version": "0.4.13",
    }
    (directory / "results.json").write_text(json.dumps(results))
    if nonzero:
        model = store / "checkpoints" / name
        model.mkdir(parents=True)
        counts = {"parameters": 1000, "nonzero": nonzero}
        (model / "manifest.json").write_text(json.dumps({"model": counts}))
    return directory


def printed(table: Any) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    return " ".join(console.export_text().split())


def test_before_and_after(tmp_path: Path) -> None:
    before = evaluation(tmp_path, "parent", 5.0, 0.75, nonzero=1000)
    after = evaluation(tmp_path, "pruned", 6.0, 0.70, nonzero=510)
    text = printed(comparison(before, after))
    for shown in ("5.0000", "6.0000", "x1.200", "-5.0 points", "1,000", "510", "acc_norm"):
        assert shown in text
    assert "83 of 83 windows of 4096 tokens" in text
    assert NO_SPEED in text
    assert "lm-eval 0.4.13" in text
    assert "different tokens" not in text


def test_tokens_that_differ_are_told(tmp_path: Path) -> None:
    before = evaluation(tmp_path, "parent", 5.0, 0.75)
    after = evaluation(tmp_path, "pruned", 6.0, 0.70, sha256="b")
    assert "different tokens" in printed(comparison(before, after))


def test_one_evaluation_is_one_column(tmp_path: Path) -> None:
    only = evaluation(tmp_path, "parent", 1e6, 0.75)
    table = comparison(only, only)
    assert [str(column.header) for column in table.columns] == ["measured", "metric", "parent"]
    assert "1e+06" in printed(table)


def test_a_missing_side_is_a_dash(tmp_path: Path) -> None:
    before = evaluation(tmp_path, "parent", 5.0, 0.75)
    after = evaluation(tmp_path, "pruned", 6.0, 0.70)
    results = json.loads((after / "results.json").read_text())
    del results["results"]["boolq"]
    (after / "results.json").write_text(json.dumps(results))
    found = rows(Evaluation.read(before), Evaluation.read(after))
    assert [(row.name, row.after) for row in found if row.name == "boolq"] == [
        ("boolq", None),
        ("boolq", None),
    ]
    assert "-" in printed(comparison(before, after))


def test_no_results_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run make eval again"):
        comparison(tmp_path, tmp_path)


def test_published_values_stand_beside_ours(tmp_path: Path) -> None:
    ours = evaluation(tmp_path, "llama2-7b-wanda", 6.50, 0.767)
    table = against_published(ours, "llama2-7b", "wanda", "0.5")
    assert table is not None
    text = markdown(table)
    assert "| perplexity/wikitext2 | ppl | 6.42 | 6.50 | +0.08 |" in text
    assert "| boolq | acc % | 75.00 | 76.70 | +1.70 |" in text
    assert against_published(ours, "mistral-7b", "wanda", "0.5") is None


@pytest.mark.parametrize("about", [{"windows": 64}, {"seqlen": 2048}])
def test_what_was_measured_otherwise_is_not_compared(tmp_path: Path, about: dict[str, int]) -> None:
    ours = evaluation(tmp_path, "llama2-7b-wanda", 6.5, 0.7, **about)
    table = against_published(ours, "llama2-7b", "wanda", "2:4")
    assert table is not None
    assert "ppl" not in markdown(table)


@pytest.mark.parametrize(
    ("said", "compared"),
    [
        ({"n-shot": {"boolq": 0}}, True),
        ({"configs": {"boolq": {"metadata": {"metric": "acc_norm,none"}}}}, True),
        ({"n-shot": {"boolq": 5}}, False),
        ({"n-samples": {"boolq": {"original": 100, "effective": 25}}}, False),
    ],
)
def test_accuracies_are_compared_where_they_are_the_papers_own(
    tmp_path: Path, said: dict[str, Any], compared: bool
) -> None:
    ours = evaluation(tmp_path, "llama2-7b-wanda", 6.5, 0.767)
    results = json.loads((ours / "results.json").read_text())
    (ours / "results.json").write_text(json.dumps(results | said))
    table = against_published(ours, "llama2-7b", "wanda", "0.5")
    assert ("| boolq | acc % | 75.00 | 76.70 |" in (markdown(table) if table else "")) == compared


def test_the_metric_that_results_name_is_shown(tmp_path: Path) -> None:
    ours = evaluation(tmp_path, "pruned", 6.5, 0.767)
    results = json.loads((ours / "results.json").read_text())
    assert {key for _, key in Evaluation.read(ours).metrics()} >= {"acc,none", "acc_norm,none"}
    results["configs"]["boolq"] = {"metadata": {"metric": "acc_norm,none"}}
    (ours / "results.json").write_text(json.dumps(results))
    found = Evaluation.read(ours).metrics()
    assert [key for key in found if key[0] == "boolq"] == [("boolq", "acc_norm,none")]


def test_a_report_finds_the_published_values_by_the_manifests(tmp_path: Path) -> None:
    before = evaluation(tmp_path, "llama2-7b", 5.1, 0.75, nonzero=1000)
    after = evaluation(tmp_path, "mine", 11.5, 0.70, nonzero=510)
    for name, manifest in (
        ("llama2-7b", {"verb": "fetch", "name": "llama2-7b"}),
        (
            "mine",
            {
                "verb": "prune",
                "stage": "wanda",
                "inputs": {"model": {"name": "models/llama2-7b"}},
                "parameters": {"pattern": "2:4", "sparsity": 0.5, "samples": 32},
                "pruning": Masked(pattern="2:4", target=0.5, achieved=0.5).model_dump(),
            },
        ),
    ):
        (tmp_path / "checkpoints" / name / "manifest.json").write_text(json.dumps(manifest))
    text = printed(report(before, after))
    assert "llama2-7b wanda 2:4: published and ours" in text
    for shown in ("11.02", "11.50", "+0.48", "5.12"):
        assert shown in text


def test_a_shape_that_no_paper_has_has_no_published_values(tmp_path: Path) -> None:
    before = evaluation(tmp_path, "llama2-7b", 5.1, 0.75, nonzero=1000)
    after = evaluation(tmp_path, "short", 9.0, 0.70, nonzero=730)
    manifest = {
        "verb": "prune",
        "stage": "shortgpt",
        "inputs": {"model": {"name": "models/llama2-7b"}},
        "pruning": SHORTER.model_dump(),
    }
    (tmp_path / "checkpoints" / "short" / "manifest.json").write_text(json.dumps(manifest))
    assert "x1.765" in printed(report(before, after))


def test_published_values_are_found() -> None:
    values = {(*one.of, one.task, one.metric, one.seqlen): one.value for one in printed_values()}
    text = ("perplexity/wikitext2", "ppl")
    assert values["llama2-13b", "dense", "", "", *text, 4096] == 4.57
    assert values["llama2-70b", "sparsegpt", "2:4", "", *text, 4096] == 5.40
    assert values["llama2-7b", "magnitude", "4:8", "", "openbookqa", "acc", None] == 26.0
    assert values["llama-7b", "llm-pruner", "element1", "", "hellaswag", "acc_norm", None] == 66.8
    assert values["llama-7b", "llm-pruner", "element1", "", "parameters", "", None] == 5_422_977_024
    assert values["llama-7b", "shortened-llama", "ppl", "recover", *text, 128] == 17.66
    assert values["llama2-7b", "shortgpt", "9 of 32", "", "removed layers", "", None] == (
        27, 26, 25, 28, 24, 29, 23, 21, 22,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "stage", "parameters", "row"),
    [
        ("llama2-7b", "wanda", {"sparsity": 0.5, "samples": 8, "seed": 3}, "0.5"),
        ("llama2-7b", "wanda", {"sparsity": 0.5, "variant": True}, None),
        ("llama2-7b", "wanda", {"sparsity": 0.6}, None),
        ("llama2-7b", "sleb", {"layers": 24}, "8 of 32"),
        ("llama2-13b", "sleb", {"layers": 32}, "8 of 40"),
        ("llama-7b", "flap", {"sparsity": 0.2, "reference": True}, "0.2"),
        ("llama-7b", "flap", {"sparsity": 0.2}, None),  # by the true weight of a head
        ("llama3.1-8b", "minitron-width", {"hidden": 3072, "ffn": 9216}, "width"),
        ("sapling", "wanda", {"sparsity": 0.5}, None),
        ("llama2-7b", "no-stage", {}, None),
    ],
)
def test_a_model_is_a_row_of_its_papers_table_by_its_parameters(
    model: str, stage: str, parameters: dict[str, Any], row: str | None
) -> None:
    made = {
        "verb": "prune", "stage": stage, "parameters": parameters,
        "inputs": {"model": {"name": f"models/{model}"}},
    }  # fmt: skip
    assert published_as(made) == (None if row is None else (model, stage, row))


def test_the_host_needs_no_model_stack() -> None:
    code = "import sys, eval.report, eval.spec, inputs.sapling.spec, inputs.fetch.spec\n"
    code += "assert not {'torch', 'transformers', 'numpy', 'lm_eval'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
