"""The command that lists what older code or packages made: drift."""

import sys
from collections import Counter

import typer

from espalier.contract.discovery import stages
from espalier.contract.manifest import Manifest, read_manifest
from espalier.errors import InputError
from espalier.host.cli.inspect import print_columns
from espalier.host.cli.session import Assignments, store_of
from espalier.host.identity import drift as changes_since


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(drift)


def drift(assignments: Assignments = None) -> None:
    """List the published results that older code or packages made; they stay usable."""
    store, _ = store_of(assignments)
    rows = [("name", "made by", "differs in")]
    counted = Counter[bool]()
    for section, name, directory in store.artifacts():
        try:
            manifest = read_manifest(directory)
        except InputError as error:
            sys.stderr.write(f"{error}\n")
            continue
        changes = _changes(manifest)
        counted[bool(changes)] += 1
        if changes:
            rows.append((f"{section}/{name}", manifest.stage, ", ".join(changes)))
    if counted[True]:
        print_columns(rows)
    sys.stderr.write(
        f"{counted[True]} of {counted.total()} results were made by older code or packages"
        + ("; the command that made one makes it again with FORCE=1.\n" if counted[True] else ".\n")
    )


def _changes(manifest: Manifest) -> list[str]:
    stage = stages().get(manifest.stage)
    return changes_since(manifest, stage) if stage else ["there is no such stage any more"]
