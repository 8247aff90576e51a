"""Commands that say what there is: help for a stage, and the lists that other files have."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from espalier.errors import InputError
from espalier.host.describe import describe
from espalier.host.listings import overview, write_listings
from espalier.host.words import command_named


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("help")(explain)
    app.command("listings")(listings)


def explain(name: Annotated[str, typer.Argument(help="a stage")] = "") -> None:
    """Print every word that a stage's command takes, or the names of all stages."""
    if not name:
        sys.stdout.write(overview())
        return
    # A pipe gets whole lines.
    width = None if sys.stdout.isatty() else 200
    Console(highlight=False, width=width).print(describe(command_named(name)))


def listings(check: bool = False) -> None:
    """Write compose's services and the README's table of methods again, from the specs."""
    changed = write_listings(check=check)
    if check and changed:
        raise InputError(
            f"{' and '.join(changed)} do not list what methods/ holds; run make listings."
        )
    sys.stdout.write("".join(f"{file}\n" for file in changed))
