"""The table of `make reproduce-<method>`: what its paper prints and ours, row by row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Group
from rich.table import Table as Shown
from rich.text import Text

from espalier.contract.manifest import MANIFEST, Manifest, read_manifest
from espalier.contract.reproduction import DENSE, Filled, Reproduction
from eval.published import FACTS, Printed, printed_in
from eval.reporting.collected import Evaluated, read_evaluation
from eval.reporting.measured import Measured, all_measured
from eval.reporting.paper import HEADINGS, Beside, beside, cells
from eval.reporting.tables import Cell, Table, text


@dataclass(frozen=True)
class Found:
    """What is on the store of a row: the model whose facts or values are told."""

    shown: str
    manifest: Manifest | None
    evaluations: tuple[Evaluated, ...]

    @classmethod
    def of(cls, model: Path, evaluations: Sequence[Path]) -> "Found":
        """What is there of it; of a plan that has not been carried out whole, a part."""
        there = [path for path in evaluations if (path / MANIFEST).is_file()]
        manifest = read_manifest(model) if (model / MANIFEST).is_file() else None
        return cls(model.name, manifest, tuple(map(read_evaluation, there)))


def tables(
    reproduction: Reproduction,
    model: str,
    filled: Sequence[Filled],
    only: Sequence[str] = (),
    otherwise: str = "",
) -> list[Table]:
    """One for each source of printed values, and one of what is ours alone.

    Args:
        reproduction: what the paper's table is.
        model: its alias; of one that is not the paper's nothing printed stands beside.
        filled: the rows.
        only: the rows that were asked for; none: all.
        otherwise: words in place of the paper's own, by which nothing can be compared.
    """
    rows = {each.row: each for each in filled}
    lines = [
        replace(line, why=otherwise)
        for printed in printed_in(reproduction)
        if printed.model == model and (not only or _row(printed) in only)
        for line in [_beside(printed, rows)]
    ]
    made = []
    for source in dict.fromkeys(each.printed.source for each in lines):
        own = [each for each in lines if each.printed.source == source]
        body = [[text(_row(each.printed)), *cells(each)] for each in own]
        made.append(Table.of(source, ("row", *HEADINGS), body))
    told = {(_row(each.printed), *_measure(each.printed)) for each in lines if each.ours}
    title = "Ours alone" if made else f"{reproduction.paper}: {model}, not of the paper"
    alone = [line for each in filled for line in _alone(each, told)]
    remarks = reproduction.remarks if made else ()
    return [*made, Table.of(title, ("row", "measured", "ours"), alone, remarks)]


def _row(printed: Printed) -> str:
    return printed.setting or DENSE


def _measure(printed: Printed) -> tuple[str, str]:
    return printed.task, printed.metric


def _beside(printed: Printed, rows: Mapping[str, Filled]) -> Beside:
    """A fact is of what was pruned, a value of what was measured, which may have been trained."""
    row = rows.get(_row(printed))
    if row is None:
        return Beside(printed, None)
    of = row.pruned if printed.task in FACTS else row.model
    return beside(printed, [Found.of(of, row.evaluations)])


def _alone(filled: Filled, told: set[tuple[str, str, str]]) -> list[list[Cell]]:
    """What was measured of a row and stands beside nothing."""
    found = Found.of(filled.model, filled.evaluations)
    return [
        [text(filled.row), text(f"{one.task} {one.metric}"), _value(one)]
        for evaluation in found.evaluations
        for one in all_measured(evaluation)
        if one.is_headline and (filled.row, one.task, one.metric) not in told
    ]


def _value(one: Measured) -> Cell:
    shown = f"{100 * one.value:.2f} %" if one.is_fraction else f"{one.value:.2f}"
    return Cell(shown, one.value)


def shown(made: Sequence[Table]) -> Group:
    """The same for a terminal."""
    return Group(*(_shown(table) for table in made if table.rows or table.notes))


def _shown(table: Table) -> Shown:
    caption = "\n".join(table.notes)
    drawn = Shown(title=Text(table.title), caption=Text(caption), caption_justify="left")
    for heading, numeric in zip(table.headings, table.numbers, strict=True):
        drawn.add_column(heading, justify="right" if numeric else "left")
    for row in table.rows:
        drawn.add_row(*(Text(cell.text) for cell in row))
    return drawn
