"""The command that writes a report on checkpoints of the store: report."""

import importlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field

from espalier.contract.lock import artifact_lock
from espalier.contract.parameters import Parameters
from espalier.contract.store import Store
from espalier.host.cli.session import Assignments
from espalier.host.commands.made_by import command_line
from espalier.host.settings import read_settings, split_assignments

SECTION = "reports"
REPORTING = "eval.reporting"
"""By its name, as a stage's own report is: nothing of eval is imported before it is asked for."""


class ReportWords(Parameters):
    """What `make report` takes beside the settings."""

    ckpts: Annotated[
        str, Field(description="names on the store, with commas between; default all models")
    ] = ""
    name: Annotated[str, Field(description="of the report; default after CKPTS")] = ""

    @property
    def names(self) -> list[str]:
        return [name for given in self.ckpts.split(",") if (name := given.strip())]

    @property
    def title(self) -> str:
        """What the report is called: NAME, or `all`, or after the first checkpoint."""
        if self.name or not self.names:
            return self.name or "all"
        first, *others = self.names
        more = f"-and-{len(others)}-more" if others else ""
        return f"{first.rpartition('/')[2]}{more}"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(report)


def report(assignments: Assignments = None) -> None:
    """Write report.html, .md and .csv on CKPTS, or all models, and a model card for each."""
    settings, rest = read_settings(split_assignments(assignments or []))
    words, store = ReportWords.from_assignments(rest), Store(settings.store)
    target = store.path(SECTION, words.title)
    collected: Any = importlib.import_module(f"{REPORTING}.collected")
    checkpoints = collected.collect(store, words.names)
    if settings.dry_run:
        sys.stdout.write(f"report: {target}, of {len(checkpoints)} checkpoints (would run)\n")
        return
    sys.stdout.write(f"{publish_report(store, words.title, checkpoints, wait=settings.wait)}\n")


def publish_report(
    store: Store, title: str, checkpoints: Sequence[Any], first: Sequence[Any] = (), *, wait: bool
) -> Path:
    """Write a report of that title, in place of one that is there.

    Args:
        store: where it is published.
        title: what it is called.
        checkpoints: what it is about.
        first: tables that stand before all others.
        wait: for a command that writes the same one.
    """
    target = store.path(SECTION, title)
    lock_file = store.lock_file(target)
    store.create(lock_file.parent)
    with artifact_lock(lock_file, wait, _say):
        partial = store.partial(SECTION, title, "0" * 12)  # it is never gone on with
        shutil.rmtree(partial, ignore_errors=True)
        store.begin(partial)
        written: Any = importlib.import_module(f"{REPORTING}.write")
        written.write_report(checkpoints, title, partial, command_line, first)
        store.publish(partial, target)
    return target


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
