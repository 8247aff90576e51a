"""Writes a report: report.html, report.md, report.csv, and a model card for each checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from espalier.contract.files import write_text
from eval.reporting import paper, plots
from eval.reporting.card import CommandOf, model_card
from eval.reporting.collected import Checkpoint
from eval.reporting.measured import Column, columns
from eval.reporting.page import Figures, Folded, page
from eval.reporting.summary import (
    checkpoints_table,
    evaluations_table,
    protocols_table,
    report_csv,
    scores_table,
)
from eval.reporting.tables import Table, markdown

PAPERS = "Papers and ours"


def write_report(
    checkpoints: Sequence[Checkpoint],
    name: str,
    directory: Path,
    command_of: CommandOf,
    first: Sequence[Table] = (),
) -> None:
    """Write all files of a report into an empty directory.

    The same store gives the same bytes: nothing of today or of this machine is in them.

    Args:
        checkpoints: what it is about.
        name: what it is called.
        directory: where it is written.
        command_of: the command that makes what a manifest describes, where there is one.
        first: tables that stand before all others.
    """
    found = columns(checkpoints)
    title, lead = f"Report on {name}", _lead(checkpoints)
    tables = _tables(checkpoints, found)
    html = _html(title, lead, checkpoints, found, first, tables)
    write_text(directory / "report.html", html)
    sections = "\n".join(map(markdown, (*first, *tables)))
    write_text(directory / "report.md", f"# {title}\n\n{lead}\n\n{sections}")
    write_text(directory / "report.csv", report_csv(checkpoints, found))
    for checkpoint in checkpoints:
        folder = directory / "cards" / checkpoint.section / checkpoint.name
        folder.mkdir(parents=True)
        write_text(folder / "README.md", model_card(checkpoint, command_of))


def _lead(checkpoints: Sequence[Checkpoint]) -> str:
    one = len(checkpoints) == 1
    count = "One checkpoint" if one else f"{len(checkpoints)} checkpoints"
    return f"{count}, as manifests and evaluations on the store describe {'it' if one else 'them'}."


def _tables(checkpoints: Sequence[Checkpoint], found: Sequence[Column]) -> list[Table]:
    beside = paper.beside_papers(checkpoints)
    papers = paper.tables(beside) or [Table.of(PAPERS, (), (), [paper.NONE_PRINTED])]
    return [
        checkpoints_table(checkpoints, found),
        scores_table(checkpoints, found),
        *papers,
        protocols_table(found),
        evaluations_table(checkpoints),
    ]


def _html(  # noqa: PLR0917 - as the report has them, from its top to its end
    title: str,
    lead: str,
    checkpoints: Sequence[Checkpoint],
    found: Sequence[Column],
    before: Sequence[Table],
    tables: Sequence[Table],
) -> str:
    first, scores, *papers, protocols, evaluations = tables
    return page(
        title,
        lead,
        [
            *before,
            first,
            Figures("Scores against costs", tuple(plots.costs(checkpoints, found))),
            scores,
            *papers,
            Figures("Block influence", tuple(plots.influences(checkpoints))),
            Figures("What pruning took of each layer", tuple(plots.layers(checkpoints))),
            Folded(protocols),
            Folded(evaluations),
        ],
    )
