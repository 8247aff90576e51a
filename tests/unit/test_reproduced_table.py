"""The table of a reproduction: what is printed, ours and the mark; and what a plan will take."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from espalier.contract.pruned import KeptIndices, Sizes, Uniform
from espalier.contract.reproduction import DENSE, Filled, reproduction_of
from espalier.contract.stage import Estimate
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.commands.filling import fill
from espalier.host.commands.reproduction import ReproduceCommand
from espalier.host.draft import Draft
from espalier.host.expected import Expected, expectation, expected
from espalier.host.settings import Settings
from eval.reporting.reproduced import shown, tables
from eval.reporting.tables import NOTHING, Table
from tests.unit.reported import a_store, evaluate, model, record_of

SIZES = Sizes(layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32)
GONE = (21, 22, 23, 24, 25, 26, 27, 28, 29)


def rows(store: Path) -> list[Filled]:
    """The dense model and the row 0.5 of Wanda's table, as a_store has them."""
    half, parent = a_store(store), store / "models" / "llama2-7b"
    return [
        Filled(row, path, path, (store / "evals" / path.name / "whole",))
        for row, path in ((DENSE, parent), ("0.5", half))
    ]


def lines(made: list[Table]) -> dict[tuple[str, str, str], tuple[str, ...]]:
    """By title, row and what was measured: the other cells."""
    return {
        (table.title, row[0].text, row[1].text): tuple(cell.text for cell in row[2:])
        for table in made
        for row in table.rows
    }


def sheared(store: Path, name: str, gone: tuple[int, ...]) -> Path:
    """Llama-2-7B without some layers, as ShortGPT records it."""
    kept = KeptIndices(layers=tuple(layer for layer in range(32) if layer not in gone))
    pruned = Uniform(
        before=SIZES, after=SIZES.model_copy(update={"layers": 32 - len(gone)}), achieved=0.27,
        kept=kept, dropped_layers=gone,
    )  # fmt: skip
    parent = store / "models" / "llama2-7b"
    return model(
        store, name, stage="shortgpt", inputs={"model": record_of(store, parent)},
        parameters={"layers": 32 - len(gone)}, pruning=pruned.model_dump(mode="json"),
    )  # fmt: skip


def test_every_printed_value_has_a_mark(tmp_path: Path) -> None:
    found = lines(tables(reproduction_of("wanda"), "llama2-7b", rows(tmp_path)))
    text = "locuslab/wanda, README: WikiText-2 perplexity, windows of 4096 tokens"
    tasks = "Wanda's zero-shot table for Llama-2-7B as the LLM pruning collection prints it"
    ppl = "perplexity/wikitext2 ppl"
    assert found[text, DENSE, ppl] == ("5.12", "5.13", "+0.01", "±0.03", "✓ within")
    assert found[text, "0.5", ppl] == ("6.42", "6.60", "+0.18", "±0.06", "✗ outside")
    assert found[text, "2:4", ppl] == ("11.02", NOTHING, NOTHING, "±0.33", "○ not run")
    assert found[tasks, "0.5", "boolq acc"][:3] == ("75.00 %", "74.50 %", "-0.50")
    assert found["Ours alone", DENSE, "boolq acc"] == ("77.70 %",)  # nobody prints it
    assert ("Ours alone", "0.5", "boolq acc") not in found
    alone = tables(reproduction_of("wanda"), "llama2-7b", rows(tmp_path / "b")[:1], [DENSE])
    assert {row for title, row, _ in lines(alone) if title == text} == {DENSE}


def test_under_other_words_nothing_is_compared(tmp_path: Path) -> None:
    made = tables(reproduction_of("wanda"), "llama2-7b", rows(tmp_path), otherwise="SAMPLES=8")
    printed = [cells for (title, _, _), cells in lines(made).items() if title != "Ours alone"]
    assert {cells[-1] for cells in printed} == {f"{NOTHING} not compared: SAMPLES=8"}
    assert any(cells[1] == "6.60" for cells in printed)  # and shown all the same


def test_of_another_model_there_is_ours_alone(tmp_path: Path) -> None:
    (made,) = tables(reproduction_of("wanda"), "sapling", rows(tmp_path))
    assert made.title.endswith("arXiv 2306.11695: sapling, not of the paper")
    assert made.headings == ("row", "measured", "ours")
    assert [row[1].text for row in made.rows][:1] == ["perplexity/wikitext2 ppl"]


@pytest.mark.parametrize(("gone", "sign"), [(GONE, "✓ within"), ((1, *GONE[1:]), "✗ outside")])
def test_the_layers_that_went_are_compared_in_any_order(
    tmp_path: Path, gone: tuple[int, ...], sign: str
) -> None:
    rows(tmp_path)
    short = sheared(tmp_path, "short", gone)
    filled = [Filled("9 of 32", short, short, ())]
    found = lines(tables(reproduction_of("shortgpt"), "llama2-7b", filled))
    layers = found[
        "ShortGPT's paper: the layers removed, least important first", "9 of 32", "removed layers"
    ]
    assert layers[0] == "27 26 25 28 24 29 23 21 22"
    assert layers[1] == " ".join(map(str, gone))
    assert layers[-1] == sign
    accuracies = found["ShortGPT's paper: accuracies", "9 of 32", "mmlu"]
    assert accuracies[-1] == f"{NOTHING} not compared: OpenCompass"


def test_parameters_are_exact(tmp_path: Path) -> None:
    rows(tmp_path)
    counts = {"parameters": 5_422_977_034, "padding": 10, "nonzero": 5_422_977_024}
    pruned = model(tmp_path, "block", stage="llm-pruner", model=counts)
    filled = [Filled("element1", pruned, pruned, ())]
    found = lines(tables(reproduction_of("llm-pruner"), "llama-7b", filled))
    (cells,) = (c for (_, r, w), c in found.items() if (r, w) == ("element1", "parameters"))
    assert cells == ("5,422,977,024", "5,422,977,024", "+0", NOTHING, "✓ within")


def test_a_mean_is_of_what_was_trained_and_a_fact_of_what_was_pruned(tmp_path: Path) -> None:
    half = rows(tmp_path)[1].pruned
    inputs = {"model": record_of(tmp_path, half)}
    trained = model(tmp_path, "again", stage="recover", verb="train", inputs=inputs)
    path = evaluate(tmp_path, trained, 17.0, 0.62, text={"seqlen": 128}, harness="0.3.0")
    filled = [Filled("ppl", half, trained, (path,))]
    found = lines(tables(reproduction_of("shortened-llama"), "llama-7b", filled))
    means = {row: cells for (_, row, what), cells in found.items() if what == "mean"}
    assert means["ppl"][:2] == ("61.83 %", "62.00 %")
    assert means["taylor"][-1] == "○ not run"


def test_a_terminal_shows_the_same(tmp_path: Path) -> None:
    made = tables(reproduction_of("wanda"), "llama2-7b", rows(tmp_path))
    console = Console(width=160, record=True, file=(tmp_path / "out").open("w"))
    console.print(shown([*made, replace(made[0], title="[red]title", notes=("a [note]",))]))
    said = console.export_text()
    for words in ("6.42", "✗ outside", "Ours alone", "[red]title", "a [note]"):
        assert words in said


def test_what_a_plan_takes_is_summed_up_by_step(tmp_path: Path) -> None:
    draft = Draft(Store(tmp_path / "store"))
    filled = fill(ReproduceCommand.parse("wanda", {}), draft)
    plan = draft.plan(filled[-1].evaluations[-1])
    settings = Settings(store=draft.store.root)
    steps = expected(plan, settings)
    assert list(steps) == ["eval-dense", *(f"{what}-{row}" for row in ("0.5", "4-8", "2-4")
                                           for what in ("prune", "eval"))]  # fmt: skip
    total = Expected.of_all(steps.values())
    assert (total.stages, total.unknown) == (len(plan.requests), ("fetch-data",))
    assert total.memory == max(each.memory for each in steps.values()) > 13e9
    assert total.disk > 4 * 13e9  # the parent and three that are as large
    fast = Expected.of_all(expected(plan, settings.model_copy(update={"accel": "cuda"})).values())
    assert fast.seconds < total.seconds / 50
    slower = expected(plan, settings.model_copy(update={"accel": "cuda"}), "l4")
    assert Expected.of_all(slower.values()).seconds > fast.seconds
    console = Console(width=160, record=True, file=(tmp_path / "out").open("w"))
    console.print(expectation(plan, settings))
    said = console.export_text()
    assert "in all" in said
    assert "on two cores" in said
    with pytest.raises(InputError, match="GPU=abacus is not known; give one of a100-40"):
        expectation(plan, settings, "abacus")


def test_what_is_there_takes_nothing(tmp_path: Path) -> None:
    draft = Draft(Store(tmp_path / "store"))
    filled = fill(ReproduceCommand.parse("magnitude", {"ONLY": "2:4"}), draft)
    plan, settings = draft.plan(filled[0].model), Settings(store=draft.store.root)
    for path in plan.requests.keys() - set(filled[0].evaluations):
        path.mkdir(parents=True)
        (path / "manifest.json").touch()
    steps = expected(plan, settings)
    assert {title: each.stages for title, each in steps.items()} == {"prune-2-4": 0, "eval-2-4": 1}
    assert steps["prune-2-4"] == Expected()
    assert Expected().cells == ("0", "-", "-", "-")


def test_products_are_what_a_gpu_makes_faster() -> None:
    estimate = Estimate(memory=1, disk=2, seconds=100, products=90)
    assert Expected.of("any", estimate, 1.0).seconds == 100
    assert Expected.of("any", estimate, 9.0).seconds == pytest.approx(20)
    assert Expected.of("any", None, 9.0).unknown == ("any",)
