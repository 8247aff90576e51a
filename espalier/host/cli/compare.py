"""Commands that hold two evaluations against each other: compare-harness, compare-evals."""

from pathlib import Path

import typer
from rich.console import Console

from espalier.host.cli.session import Assignments, Session, store_of
from espalier.host.commands.comparison import REPORT, compare_harnesses, evaluation_named
from espalier.host.commands.sources import checkpoint_asked
from espalier.host.draft import Draft
from espalier.host.runners.run import table_of

SIDES = ("A", "B")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("compare-harness")(compare_harness)
    app.command("compare-evals")(compare_evals)


def compare_harness(assignments: Assignments = None) -> None:
    """Evaluate CKPT on the tasks of TASK_DATA by both releases of lm-eval, and say what differs."""
    session = Session.of(assignments)
    rest = session.rest
    found = checkpoint_asked(rest)

    def build(draft: Draft) -> Path:
        return compare_harnesses(draft, found(draft), rest)

    session.carry_out("compare-harness", build)


def compare_evals(assignments: Assignments = None) -> None:
    """Hold the evaluations A and B, made with LOG_SAMPLES=1, against each other."""
    store, rest = store_of(assignments, *SIDES)
    sides = [evaluation_named(store, rest.get(side, ""), side) for side in SIDES]
    Console(highlight=False).print(table_of(REPORT, sides))
