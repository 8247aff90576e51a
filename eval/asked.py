"""Tasks that are asked of a model: entries of a suite with the files of their rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from espalier.contract.stage import StageContext
from espalier.data.task_columns import read_rows
from espalier.data.task_rows import EXAMPLES, as_lines, example_files, task_files
from espalier.data.text import sha256_of_file
from espalier.errors import InputError
from eval.spec import EvalParameters
from eval.suites.entry import Entry


@dataclass(frozen=True)
class Asked:
    """An entry and what it is made of.

    Attributes:
        rows: JSON lines of the rows that are evaluated.
        examples: JSON lines of those that examples are drawn from, where there are such.
        scratch: a folder for files that are made of them.
    """

    entry: Entry
    rows: Path
    examples: Path | None
    scratch: Path

    @property
    def label(self) -> str:
        """What it is called in results."""
        return self.entry.label

    def require_metric(self, metrics: Iterable[str]) -> None:
        """See that the task has the metric that is to count.

        Raises:
            InputError: it does not.
        """
        names = list(metrics)
        if self.entry.metric and self.entry.metric not in names:
            raise InputError(
                f"{self.entry.name} has no metric {self.entry.metric} in lm-eval "
                f"{version('lm_eval')}; name one of {', '.join(names)}."
            )

    def require_examples(self, shots: int) -> None:
        """See that there are rows to draw `shots` examples from.

        Raises:
            InputError: there are not.
        """
        if not shots:
            return
        if self.examples is None:
            raise InputError(
                f"{self.entry.name} with {shots} examples needs {self.entry.name}{EXAMPLES}.jsonl "
                "beside its rows in TASK_DATA; put rows of the split there that lm-eval draws them "
                "from (train, where the task has one), or ask for 0 examples."
            )
        if (count := len(read_rows(self.examples))) < shots:
            raise InputError(
                f"{self.examples.name} has {count} rows, and {shots} examples are drawn from it; "
                "put more there, or ask for fewer."
            )

    def metadata(self, shots: int) -> dict[str, Any]:
        """Which rows were seen, for the results; `shots` is how many examples were drawn."""
        found = {"rows_sha256": sha256_of_file(self.rows)}
        if self.examples and shots:
            found["examples_sha256"] = sha256_of_file(self.examples)
        return found


def asked_of(context: StageContext, parameters: EvalParameters) -> dict[str, Asked]:
    """The tasks that a stage is asked for, with their rows, by their labels in results.

    Args:
        context: input `tasks` where there are any.
        parameters: of the evaluation.

    Raises:
        InputError: tasks are named and no rows are given, or they do not fit.
    """
    entries, folder = parameters.entries, context.inputs.get("tasks")
    if folder is not None:
        return asked_tasks(folder, entries, context.scratch / "tasks")
    if entries or parameters.suite == "tasks":
        names = ", ".join(dict.fromkeys(entry.name for entry in entries)) or "its tasks"
        raise InputError(
            f"SUITE={parameters.suite} needs the rows of {names}: give "
            "TASK_DATA=<folder of <task>.jsonl>; an evaluation never downloads."
        )
    return {}


def asked_tasks(folder: Path, entries: Sequence[Entry], scratch: Path) -> dict[str, Asked]:
    """What is asked by its label in results; of every task in the folder where none is named.

    Args:
        folder: TASK_DATA.
        entries: of a suite, or of TASKS.
        scratch: where rows are written as JSON lines that are something else.

    Raises:
        InputError: rows are missing, or do not fit their task.
    """
    names = list(dict.fromkeys(entry.name for entry in entries))
    rows = as_lines(task_files(folder, names), scratch)
    entries = entries or [Entry(name) for name in rows]
    drawing = dict.fromkeys(entry.name for entry in entries if entry.shots != 0)
    drawn = {name + EXAMPLES: path for name, path in example_files(folder, drawing).items()}
    examples = as_lines(drawn, scratch)
    return {
        entry.label: Asked(
            entry,
            rows[entry.name],
            examples.get(entry.name + EXAMPLES) if entry.shots != 0 else None,
            scratch,
        )
        for entry in entries
    }
