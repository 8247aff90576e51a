"""Progress for people (a bar on a terminal, plain lines elsewhere) and metrics as JSON lines."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from espalier.contract.files import write_text
from espalier.contract.json_text import from_json, to_json

PLAIN_LINE_SECONDS = 5.0


class Progress:
    """Reports to stderr, and every step to a `metrics.jsonl`.

    Args:
        metrics: that file; None: none.
        shown: whether there is anything on stderr.
    """

    def __init__(self, metrics: Path | None = None, *, shown: bool = True) -> None:
        self._metrics = metrics
        # In a container stderr is a pipe, so the host says whether a terminal is at its end.
        at_terminal = sys.stderr.isatty() or os.environ.get("ESPALIER_TERMINAL") == "1"
        self._console = Console(
            stderr=True, highlight=False, force_terminal=at_terminal, quiet=not shown
        )

    def say(self, text: str) -> None:
        """One plain line for the user."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def steps(self, title: str, total: int | None, done: int = 0) -> Iterator["Steps"]:
        """Follow `total` steps (None: nobody knows), `done` of which an earlier run has made."""
        with Steps(title, total, done, self._console, self._metrics) as steps:
            yield steps


@dataclass
class _Clock:
    started: float
    last_line: float


class Steps:
    """One counted piece of work."""

    def __init__(
        self, title: str, total: int | None, done: int, console: Console, metrics: Path | None
    ) -> None:
        self._title, self._total, self._done, self._first = title, total, done, done
        self._console, self._metrics = console, metrics
        now = time.monotonic()
        self._clock = _Clock(now, now)
        self._bar: Bar | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
            )
            self._bar = Bar(*columns, console=console)
            self._task = self._bar.add_task(title, total=total, completed=done, values="")

    def __enter__(self) -> "Steps":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, **values: Any) -> None:
        """One more step is done; `values` are its metrics (numbers or short strings)."""
        self._done += 1
        now = time.monotonic()
        elapsed = now - self._clock.started
        shown = " ".join(f"{k} {_short(v)}" for k, v in values.items())
        if self._bar:
            self._bar.update(self._task, advance=1, values=shown)
        elif now - self._clock.last_line > PLAIN_LINE_SECONDS or self._done == self._total:
            line = f"{self._title} {self._done}{self._ahead(elapsed, shown)}"
            self._console.print(line, markup=False, soft_wrap=True)
            self._clock.last_line = now
        if self._metrics:
            row = {"task": self._title, "step": self._done, "elapsed_s": round(elapsed, 3)}
            with self._metrics.open("a") as file:
                file.write(to_json({**row, **values}) + "\n")

    def _ahead(self, elapsed: float, shown: str) -> str:
        if self._total is None:
            return f" {shown}"
        left = elapsed / (self._done - self._first) * (self._total - self._done)
        return f"/{self._total} {shown} eta {left:.0f} s"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def keep_before(path: Path, step: int) -> None:
    """Drop the lines of steps that an interrupted run made and this one makes again."""
    if not path.is_file():
        return
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    kept = [line for line in lines if from_json(line)["step"] <= step]
    write_text(path, "".join(f"{line}\n" for line in kept))
