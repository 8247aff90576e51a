"""Two evaluations held against each other request by request, as one table.

Runs on the host: nothing of the model stack is imported.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from espalier.errors import InputError
from eval.comparing.causes import ROWS, Cause
from eval.comparing.scores import Score, Value, of_the_metric, scores
from eval.comparing.task import TaskComparison
from eval.report import Evaluation
from eval.samples.sample import read_samples

NOTHING, WHY = "nothing differs", "why"
MEANING = {
    "rows": "that both have",
    "other answers": "rows whose chosen answer is another",
    "largest Δ": "between log-likelihoods of the same text",
    "greedy": "requests of the same text that are greedy in one alone",
    WHY: "what differs, and in how many rows",
}
"""The columns after the scores."""
NAMED = 3
"""Tasks that are named of those of which one thing holds."""


def report(one: Path, other: Path) -> Table:
    """The table of two evaluations' directories.

    Raises:
        InputError: one of them has no results or no samples, or they have no task in common.
    """
    first, second = Evaluation.read(one), Evaluation.read(other)
    asked, answered = read_samples(one), read_samples(other)
    measured = first.results["results"].keys() & second.results["results"].keys()
    both = [task for task in asked if task in answered and task in measured]
    if not both:
        raise InputError(f"{one} and {other} have no task in common; compare others.")
    table = _empty(_heading(first), _heading(second))
    details: dict[str, list[str]] = {}
    for task in both:
        found = scores(first.results, second.results, task)
        metrics = [score.metric for score in found]
        compared = TaskComparison.of(asked[task], answered[task], metrics)
        if _has_other_rows(first, second, task):
            compared.add(ROWS, "their file is another", 0)
        for score in found:
            why = [*compared.ordered, *filter(None, [of_the_metric(score, compared)])]
            table.add_row(Text(task), score.metric, *_cells(score, compared), _phrase(why))
            for cause in why:
                details.setdefault(f"{cause.name}: {cause.first}", []).append(task)
    alone = [task for task in {**asked, **answered} if task not in both]
    table.caption = Text("\n".join(_caption(details, alone)))  # prompts have brackets
    table.caption_justify = "left"
    return table


def _empty(*names: str) -> Table:
    table = Table("task", "metric")
    for heading in (*names, *MEANING):
        table.add_column(heading, overflow="fold", justify="left" if heading == WHY else "right")
    return table


def _heading(evaluation: Evaluation) -> str:
    """Which evaluation it is, and what measured it."""
    directory, results = evaluation.directory, evaluation.results
    backend = results.get("config", {}).get("backend")
    harness = f"lm-eval {results.get('lm_eval_version', '?')}"
    how = f"{harness}, {backend}" if backend else harness
    return "\n".join((evaluation.name, directory.name, how))


def _has_other_rows(one: Evaluation, other: Evaluation, task: str) -> bool:
    hashes = {side.about(task).get("rows_sha256") for side in (one, other)} - {None}
    return len(hashes) > 1


def _cells(score: Score, task: TaskComparison) -> Iterator[str]:
    yield from map(_value, (score.one, score.other))
    yield f"{task.documents:,}"
    yield f"{task.choices[score.metric]:,}"
    yield from ("-", "-") if task.distance is None else (f"{task.distance:.2g}", f"{task.greedy:,}")


def _value(value: Value | None) -> str:
    if value is None:
        return "-"
    return f"{value.value:.4f}" + ("" if value.error is None else f" ± {value.error:.4f}")


def _phrase(causes: Sequence[Cause]) -> str:
    counts = (f" {cause.documents:,}" if cause.documents else "" for cause in causes)
    named = [f"{cause.name}{count}" for cause, count in zip(causes, counts, strict=True)]
    return ", ".join(named) or NOTHING


def _caption(details: Mapping[str, Sequence[str]], alone: Collection[str]) -> Iterator[str]:
    """How things differ, in the first row of each task in which they do; what columns mean."""
    for how, tasks in details.items():
        yield f"{_some(list(dict.fromkeys(tasks)))}: {how}"
    if alone:
        yield f"in one of the two alone: {_some(list(alone))}"
    yield "; ".join(f"{column}: {meaning}" for column, meaning in MEANING.items())


def _some(tasks: Sequence[str]) -> str:
    others = len(tasks) - NAMED
    return ", ".join(tasks[:NAMED]) + (f" and {others} more" if others > 0 else "")
