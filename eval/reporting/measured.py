"""Numbers of evaluations, side by side only where they were measured the same way."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from espalier.contract.json_text import to_json
from eval.headline import about, is_headline
from eval.reporting.collected import Checkpoint, Evaluated

TEXT_FACTS = {
    "source": "text", "revision": "revision", "split": "split", "join": "join", "rule": "rule",
    "seqlen": "tokens a window", "windows": "windows", "windows_available": "windows in all",
    "tokenizer_probe": "tokenizer", "sha256": "token ids",
}  # fmt: skip
"""What is recorded of a perplexity's text, and how it is called here."""
PERPLEXITY, ACCURACY = "ppl", "acc"
SHORT = 24
"""Letters of a fact that a heading shows; a longer one by its hash."""
Protocol = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Measured:
    """One number.

    Attributes:
        protocol: name and value of each fact that has to agree for numbers to be compared.
        stderr: None: the harness gives none.
        whole: nothing was left out by a limit.
        dtype: in which the model ran: no part of the protocol, and said where it differs.
        is_headline: it is its task's number that counts.
    """

    task: str
    metric: str
    protocol: Protocol
    value: float
    stderr: float | None
    whole: bool
    dtype: str
    suite: str
    is_headline: bool

    @property
    def higher_is_better(self) -> bool:
        return not self.metric.startswith(PERPLEXITY)

    @property
    def is_fraction(self) -> bool:
        return self.metric.startswith((ACCURACY, "exact_match"))


@dataclass(frozen=True)
class Column:
    """Numbers that may stand beside each other, by the checkpoint's place in the report."""

    task: str
    metric: str
    protocol: Protocol
    label: str
    values: Mapping[int, Measured] = field(default_factory=dict)

    @property
    def first(self) -> Measured:
        return next(iter(self.values.values()))


def columns(checkpoints: Sequence[Checkpoint]) -> list[Column]:
    """Every measurement of every checkpoint, one column for each way of measuring."""
    found: dict[tuple[str, str, Protocol], dict[int, Measured]] = defaultdict(dict)
    for place, checkpoint in enumerate(checkpoints):
        for evaluation in checkpoint.evaluations:
            for one in all_measured(evaluation):
                # The same measured twice is the same number; the first by name is shown.
                found[one.task, one.metric, one.protocol].setdefault(place, one)
    ways: dict[tuple[str, str], list[Protocol]] = defaultdict(list)
    for task, metric, protocol in found:
        ways[task, metric].append(protocol)
    made = [
        Column(task, metric, protocol, _label(task, metric, protocol, ways[task, metric]), values)
        for (task, metric, protocol), values in found.items()
    ]
    return sorted(made, key=lambda column: (_kind(column), column.task, column.label))


def overview(found: Sequence[Column]) -> list[Column]:
    """Those that a table of one line a checkpoint shows: perplexities, means, lone tasks."""
    members = {task for column in found for task in _tasks_of(column)}
    return [
        column
        for column in found
        if any(one.is_headline for one in column.values.values()) and column.task not in members
    ]


def differences(found: Sequence[Column]) -> list[str]:
    """One sentence for each measurement that stands in several columns: what differs."""
    ways: dict[tuple[str, str], list[Column]] = defaultdict(list)
    for column in found:
        ways[column.task, column.metric].append(column)
    return [
        f"{task} {metric} was measured in {len(same)} ways that cannot be compared; they differ in "
        f"{', '.join(_differing([column.protocol for column in same]))}."
        for (task, metric), same in ways.items()
        if len(same) > 1
    ]


def dtypes(found: Sequence[Column]) -> list[str]:
    """One sentence for each column whose models did not run in one dtype."""
    said = []
    for column in found:
        kinds = sorted({one.dtype for one in column.values.values()} - {""})
        if len(kinds) > 1:
            said.append(f"{column.label}: models ran in {' and '.join(kinds)}.")
    return said


def all_measured(evaluation: Evaluated) -> tuple[Measured, ...]:
    """Every number of an evaluation, and the mean of its tasks."""
    return (*measurements(evaluation), *_means(evaluation))


def measurements(evaluation: Evaluated) -> Iterator[Measured]:
    """Every number of its results that has a metric's name."""
    inner = _inner_tasks(evaluation.results)
    for task, values in evaluation.results["results"].items():
        if not isinstance(values, Mapping):
            continue
        for key, value in values.items():
            name, comma, rule = key.partition(",")
            if not comma or "_stderr" in name or not _is_number(value):
                continue
            metric = name if rule == "none" else f"{name} ({rule})"
            stderr = values.get(f"{name}_stderr,{rule}")
            yield Measured(
                task=task,
                metric=metric,
                protocol=_protocol(evaluation.results, task),
                value=float(value),
                stderr=float(stderr) if _is_number(stderr) else None,
                whole=_is_whole(evaluation.results, task),
                dtype=_dtype(evaluation),
                suite=evaluation.suite,
                is_headline=task not in inner and is_headline(evaluation.results, task, key),
            )


def _means(evaluation: Evaluated) -> Iterator[Measured]:
    """The mean of what counts of an evaluation's tasks, where there are several."""
    found = (one for one in measurements(evaluation) if one.is_headline)
    parts = [one for one in found if one.metric != PERPLEXITY]
    if len(parts) < 2:
        return
    facts: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        for name, value in part.protocol:
            facts[name].append(value)
    metrics = list(dict.fromkeys(part.metric for part in parts))
    protocol = {"tasks": ", ".join(part.task for part in parts)}
    if len(metrics) > 1:
        protocol["metrics"] = ", ".join(part.metric for part in parts)
    protocol |= {
        name: values[0] if len(set(values)) == 1 else _hash(to_json(values))
        for name, values in facts.items()
    }
    errors = [part.stderr for part in parts]
    known = [error for error in errors if error is not None]
    whole = len(known) == len(errors)
    yield Measured(
        task=f"mean of {len(parts)} tasks",
        metric=" or ".join(metrics),
        protocol=tuple(protocol.items()),
        value=math.fsum(part.value for part in parts) / len(parts),
        stderr=math.sqrt(math.fsum(e * e for e in known)) / len(parts) if whole else None,
        whole=all(part.whole for part in parts),
        dtype=parts[0].dtype,
        suite=evaluation.suite,
        is_headline=True,
    )


def _inner_tasks(results: Mapping[str, Any]) -> set[str]:
    """Tasks that are parts of a group: MMLU's subjects."""
    groups = results.get("group_subtasks")
    return {name for names in groups.values() for name in names} if groups else set()


def _protocol(results: Mapping[str, Any], task: str) -> Protocol:
    record = about(results, task)
    if task.startswith("perplexity/"):
        return tuple((name, _word(record.get(key))) for key, name in TEXT_FACTS.items())
    counts = _of(results, "n-samples", task)
    drawn = record.get("examples_sha256")
    return (
        ("lm-eval", _word(results.get("lm_eval_version"))),
        ("task version", _word(_plain(results, "versions", task))),
        ("shots", _word(_plain(results, "n-shot", task))),
        ("rows", _word(counts.get("effective"))),
        ("rows' hash", _word(record.get("rows_sha256"))),
        *([("examples' hash", _word(drawn))] if drawn else []),
    )


def _is_whole(results: Mapping[str, Any], task: str) -> bool:
    record, counts = about(results, task), _of(results, "n-samples", task)
    if task.startswith("perplexity/"):
        return "windows" in record and record["windows"] == record.get("windows_available")
    return "effective" in counts and counts["effective"] == counts.get("original")


def _of(results: Mapping[str, Any], key: str, task: str) -> Mapping[str, Any]:
    value = _plain(results, key, task)
    return value if isinstance(value, Mapping) else {}


def _plain(results: Mapping[str, Any], key: str, task: str) -> Any:
    section = results.get(key)
    return section.get(task) if isinstance(section, Mapping) else None


def _dtype(evaluation: Evaluated) -> str:
    config = evaluation.results.get("config")
    stated = config.get("model_dtype") if isinstance(config, Mapping) else None
    return str(stated or "").removeprefix("torch.")


def _word(value: Any) -> str:
    if value is None:
        return "not stated"
    words = str(value)
    return words if words.strip() and words.isprintable() else repr(words)


def _label(task: str, metric: str, protocol: Protocol, ways: Sequence[Protocol]) -> str:
    """`boolq acc`, with what tells it from others where the same was measured in several ways."""
    apart = [f"{name} {_shown(value)}" for name, value in protocol if name in _differing(ways)]
    return f"{task} {metric}" + (f" ({', '.join(apart)})" if apart else "")


def _differing(ways: Sequence[Protocol]) -> list[str]:
    names = dict.fromkeys(name for way in ways for name, _ in way)
    return [name for name in names if len({dict(way).get(name) for way in ways}) > 1]


def _shown(value: str) -> str:
    if len(value) <= SHORT:
        return value
    return _hash(value)[:8]


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def _kind(column: Column) -> int:
    """Perplexities first, then means, then tasks."""
    if column.metric == PERPLEXITY:
        return 0
    return 1 if _tasks_of(column) else 2


def _tasks_of(column: Column) -> list[str]:
    """The tasks that a mean is of."""
    listed = dict(column.protocol).get("tasks")
    return listed.split(", ") if listed else []


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
