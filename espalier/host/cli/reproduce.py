"""The commands that fill a paper's table: reproduce-<method>."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from espalier.contract.manifest import MANIFEST
from espalier.contract.reproduction import Filled, reproducible
from espalier.contract.store import name_after
from espalier.errors import InputError
from espalier.host.cli.report import REPORTING, SECTION, publish_report
from espalier.host.cli.session import Assignments, Session
from espalier.host.commands.filling import fill
from espalier.host.commands.reproduction import ReproduceCommand
from espalier.host.draft import Draft
from espalier.host.expected import USUAL_GPU, expectation
from espalier.host.plan import Plan
from espalier.host.runners.run import console

WORDS = ("GPU", "TABLE", "NAME")
"""What it takes beside the settings, its table's words and those of its stages."""


def register(app: typer.Typer) -> None:
    """Add a command for each method that has a reproduce.toml."""
    for name in reproducible():
        app.command(f"reproduce-{name}", help=f"fill the paper's table of {name}")(_command(name))


def _command(name: str) -> Callable[[Assignments], None]:
    def reproduce(assignments: Assignments = None) -> None:
        _reproduce(name, Session.of(assignments))

    return reproduce


def _reproduce(name: str, session: Session) -> None:
    own = {word: session.rest.pop(word, "") for word in WORDS}
    command = ReproduceCommand.parse(name, session.rest)
    title = own["NAME"] or f"reproduce-{name}-{name_after(Path(command.model))}"
    session.executor.store.path(SECTION, title)
    filled: list[Filled] = []

    def build(draft: Draft) -> Path:
        filled[:] = fill(command, draft)
        last = filled[-1]
        return last.evaluations[-1] if last.evaluations else last.model

    alone = own["TABLE"] == "1"
    plan = session.drawn_up(f"reproduce-{name}", build, only=alone)
    if alone and not any(_there(plan)):
        raise InputError(
            "nothing of this table is on the store yet; leave TABLE out, and it is filled."
        )
    last = None if alone else _carried_out(session, plan, own["GPU"] or USUAL_GPU)
    session.finish(last or str(_table(session, command, filled, title) or plan.result))


def _carried_out(session: Session, plan: Plan, gpu: str) -> str | None:
    """Say what the plan takes, and carry it out; its last line where no table follows yet."""
    dry_run = session.settings.dry_run
    where = Console(highlight=False) if dry_run else console
    where.print(expectation(plan, session.settings, gpu))
    if not dry_run and session.executor.fetching is None:  # a cluster's nodes have their own
        session.executor.require_fit(plan)
    last = session.carried_out(plan)
    if dry_run:
        return last
    if missing := _there(plan).count(False):
        _say(f"{missing} results are not there yet; then the same command prints the table.")
        return last
    return None


def _table(
    session: Session, command: ReproduceCommand, filled: Sequence[Filled], title: str
) -> Path | None:
    """Print the table of what is on the store, and publish a report that begins with it."""
    reproduced: Any = importlib.import_module(f"{REPORTING}.reproduced")
    of = (command.reproduction, command.model, filled, command.only, command.otherwise)
    tables = reproduced.tables(*of)
    console.print(reproduced.shown(tables))
    store = session.executor.store
    models = dict.fromkeys(path for each in filled for path in (each.pruned, each.model))
    names = [
        f"{path.parent.name}/{path.name}"
        for path in models
        if store.holds(path) and (path / MANIFEST).is_file()
    ]
    if not names:
        return None
    collected: Any = importlib.import_module(f"{REPORTING}.collected")
    checkpoints = collected.collect(store, names)
    return publish_report(store, title, checkpoints, tables, wait=session.settings.wait)


def _there(plan: Plan) -> list[bool]:
    """Of each result that the plan is for, whether it is published."""
    return [(path / MANIFEST).is_file() for step in plan.steps for path in step.outputs]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
