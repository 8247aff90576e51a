"""From a command's words to settings, a chain on a store, and what is printed in the end."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from espalier.contract.stage import Stage
from espalier.contract.store import Store
from espalier.host.chain import Chain
from espalier.host.cli.slurm import Submission
from espalier.host.execution import Executor
from espalier.host.runtimes.choice import choose_runtime
from espalier.host.settings import Settings, read_settings, split_assignments

Assignments = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME=value]...", help="settings and parameters")
]

console = Console(stderr=True, highlight=False)


@dataclass
class Session:
    """One command's settings, chain and remaining assignments."""

    settings: Settings
    chain: Chain
    rest: dict[str, str]
    submission: Submission | None = None

    @classmethod
    def of(cls, words: list[str] | None) -> "Session":
        """Read the words; no runtime is prepared yet."""
        settings, rest = read_settings(split_assignments(words or []))
        if submission := Submission.of(settings, rest):
            # Walked through as if it were only shown: what runs here, the rehearsal knows.
            shown = settings.model_copy(update={"dry_run": True})
            return cls(shown, submission.rehearsal, rest, submission)
        executor = Executor(Store(settings.store), choose_runtime(settings), settings)
        return cls(settings, Chain(executor, settings), rest)

    @property
    def dry_run(self) -> bool:
        """Whether the user has asked to be shown what would run."""
        return self.submission.settings.dry_run if self.submission else self.settings.dry_run

    def finish(self, published: Path) -> None:
        """Print the published path as the last line on stdout, or what would have run.

        A command that becomes jobs prints their ids instead, or their scripts.
        """
        if self.dry_run:
            for preview in self.chain.previews.values():
                print_rows(preview)
        sys.stdout.write(f"{self.submission.finish(published) if self.submission else published}\n")


def print_rows(rows: dict[str, str]) -> None:
    """Two columns on stdout."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, Text(value))  # a script has brackets
    Console(highlight=False, soft_wrap=False).print(table)


def report(stage: Stage, *results: Path) -> None:
    """Print the stage's own table of its results to stderr."""
    if stage.report:
        module, _, function = stage.report.partition(":")
        table: Any = getattr(importlib.import_module(module), function)(*results)
        console.print(table)


def store_of(words: list[str] | None) -> tuple[Store, dict[str, str]]:
    """The store and the remaining assignments, for commands that start no stage."""
    settings, rest = read_settings(split_assignments(words or []))
    return Store(settings.store), rest
