"""The command that removes what runs have left unfinished: gc."""

import sys
from typing import Annotated

import typer
from pydantic import Field

from espalier.contract.measure import show_size
from espalier.contract.parameters import Parameters
from espalier.contract.store import Store
from espalier.host.cli.session import Assignments
from espalier.host.leftovers import Leftover, Tidying
from espalier.host.settings import read_settings, split_assignments


class GcWords(Parameters):
    """What `make gc` takes beside the settings."""

    min_age: Annotated[float, Field(ge=0, description="hours since the last change")] = 1
    all: Annotated[bool, Field(description="remove even what could be resumed")] = False


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(gc)


def gc(assignments: Assignments = None) -> None:
    """Remove unfinished work that no command goes on with; DRY_RUN=1 only says what it would do."""
    settings, rest = read_settings(split_assignments(assignments or []))
    words = GcWords.from_assignments(rest)
    tidying = Tidying(Store(settings.store), words.min_age * 3600, words.all)
    freed = tidying.run(settings.dry_run, _tell)
    sys.stdout.write(f"{show_size(freed)} {'would be ' if settings.dry_run else ''}freed\n")


def _tell(leftover: Leftover, outcome: str) -> None:
    sys.stderr.write(f"{outcome}: {leftover.directory} {leftover.why}\n")
