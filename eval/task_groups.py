"""Groups of lm-eval 0.4's tasks whose rows come in one file, as MMLU's: each task gets its own."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_eval.api.group import Group
from lm_eval.config.group import AggMetricConfig
from lm_eval.tasks._index import Entry as Source
from lm_eval.tasks._index import Kind

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.data.task_columns import Row, read_rows
from espalier.data.task_rows import EXAMPLES
from espalier.errors import InputError
from eval.asked import Asked

COLUMN = "subject"
"""What says of which task of its group a row is: by the name that the hub gives that part."""


def empty_group(asked: Asked, source: Source) -> Group:
    """lm-eval's group without its tasks, under the name of what is asked.

    Raises:
        InputError: it has no value of its own, or not the metric that is asked for.
    """
    given = source.cfg or {}
    metrics = [AggMetricConfig(**each) for each in given.get("aggregate_metric_list") or ()]
    if not metrics:
        raise InputError(
            f"{source.name} is a name of lm-eval's for several tasks that has no value of its own; "
            f"name the tasks: {_some(_names(source))}."
        )
    asked.require_metric(each.metric for each in metrics)
    metadata = (given.get("metadata") or {}) | asked.metadata(asked.entry.shots or 0)
    return Group(asked.label, aggregate_metric_list=metrics, metadata=metadata)


def parts_of(source: Source, index: Mapping[str, Source]) -> dict[str, Source]:
    """The tasks of a group by the hub's names of their parts, also those of groups within.

    Raises:
        InputError: a task has no such name.
    """
    members = list(_members(source, index))
    parts = {str((each.cfg or {}).get("dataset_name") or ""): each for each in members}
    if "" in parts or len(parts) < len(members):
        raise InputError(
            f"{source.name} is a group of lm-eval's whose rows come in several files; name its "
            f"tasks: {_some([each.name for each in members])}."
        )
    return parts


def divided(asked: Asked, path: Path, parts: Mapping[str, Any]) -> dict[str, Path]:
    """The rows of each part, as a file of their own in the scratch folder.

    Args:
        asked: the group as it is asked.
        path: its rows, or its examples: JSON lines.
        parts: the hub's names of the group's parts.

    Raises:
        InputError: a row is of no part, or a part has no row.
    """
    rows: dict[str, list[Row]] = defaultdict(list)
    for number, row in read_rows(path):
        if row.get(COLUMN) not in parts:
            raise InputError(
                f"{path}:{number} has {COLUMN} {to_json(row.get(COLUMN))[:60]}; a row of "
                f"{asked.entry.name} has to name one of its parts there: {_some(list(parts))}."
            )
        rows[row[COLUMN]].append(row)
    if missing := [part for part in parts if part not in rows]:
        raise InputError(
            f"{path} has no rows of {_some(missing)}; give those of every part of "
            f"{asked.entry.name}, or name single tasks with TASKS=."
        )
    asked.scratch.mkdir(parents=True, exist_ok=True)
    kind = EXAMPLES if path == asked.examples else ""
    files = {}
    for part, own in rows.items():
        name = f"{asked.entry.name}-{part.replace('/', '-')}{kind}.jsonl"
        files[part] = asked.scratch / name
        write_text(files[part], "".join(to_json(row) + "\n" for row in own))
    return files


def describe_group(results: dict[str, Any], group: Group) -> None:
    """Write into lm-eval's results of a group what they have of every task: rows and metadata."""
    counts = [results["n-samples"][name] for name in group.child_names]
    results["n-samples"][group.name] = {
        key: sum(count[key] for count in counts) for key in ("original", "effective")
    }
    results["configs"][group.name] = {"group": group.name, "metadata": group.metadata}


def _members(source: Source, index: Mapping[str, Source]) -> Iterator[Source]:
    if source.kind not in (Kind.TAG, Kind.GROUP):
        yield source
        return
    for name in _names(source):
        if name in index:
            yield from _members(index[name], index)


def _names(source: Source) -> list[str]:
    """What a tag or a group is made of: names of tasks, tags and groups."""
    if source.kind is Kind.TAG:
        return sorted(source.tags)
    return [name for name in (source.cfg or {}).get("task") or () if isinstance(name, str)]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown}, …" if len(names) > 5 else shown
