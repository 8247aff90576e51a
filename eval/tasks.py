"""Task objects of lm-eval 0.4.13 that read their rows from files (espalier.data.task_rows)."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._factory import TaskFactory  # the public manager takes no overrides
from lm_eval.tasks._index import Entry as Source
from lm_eval.tasks._index import Kind, TaskIndex

from espalier.data.task_rows import is_minimal_pair, minimal_pair_config, rows_config
from espalier.errors import InputError
from eval import squad_metrics
from eval.asked import Asked
from eval.task_groups import divided, empty_group, parts_of

SHIPPED = {
    "boolq": "super_glue/boolq/default.yaml",
    "rte": "glue/rte/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "piqa": "piqa/piqa.yaml",
    "sciq": "sciq/sciq.yaml",
    "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml",
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
    "anli_r1": "anli/anli_r1.yaml",
    "anli_r2": "anli/anli_r2.yaml",
    "anli_r3": "anli/anli_r3.yaml",
    "record": "super_glue/record/default.yaml",
}
"""Where lm-eval keeps the tasks of the suites; finding any other means reading all its YAML."""
SHIPPED_GROUPS = {"mmlu": "mmlu/default"}
"""Their groups, with all their tasks."""
PLACE = Path(lm_eval.tasks.__file__).parent


def harness_task(asked: Asked) -> Any:
    """A task object of lm-eval 0.4 that has the rows, the examples and the name of what is asked.

    A group of tasks (mmlu) comes as lm-eval's group, with its rows divided among its tasks.

    Raises:
        InputError: neither minimal pairs nor a task of lm-eval, or its metric or its examples are
            missing.
    """
    if is_minimal_pair(asked.rows):
        if asked.entry.shots:
            raise InputError(
                f"{asked.label} are minimal pairs, which have no examples before them; write "
                f"TASKS={asked.entry.name}."
            )
        task = ConfigurableTask(config=minimal_pair_config(asked.label) | rows_config(asked.rows))
        task.config.metadata = {"version": 1.0}
        return _checked(asked, task)
    source = _source(asked.entry.name)
    if source.kind in (Kind.GROUP, Kind.TAG):
        return _group(asked, source)
    return _checked(asked, _build(source, asked))


def leaves(task: Any) -> list[Any]:
    """The tasks of a group, or the task itself."""
    return task.get_all_tasks() if isinstance(task, Group) else [task]


def _checked(asked: Asked, task: Any) -> Any:
    """A task whose metric and examples are there, and whose results say which rows it saw."""
    config = task.config
    shots = config.num_fewshot or 0
    asked.require_metric(task.aggregation())
    if not getattr(config.fewshot_config, "samples", None):  # examples that the task brings
        asked.require_examples(shots)
    metadata = {"version": task.VERSION} | asked.metadata(shots)
    config.metadata = (config.metadata or {}) | metadata
    return task


def _group(asked: Asked, source: Source) -> Group:
    """Each task of the group with its part of the rows and of the examples."""
    group = empty_group(asked, source)
    asked.require_examples(asked.entry.shots or 0)
    parts = parts_of(source, _index(SHIPPED_GROUPS.get(asked.entry.name)))
    rows = divided(asked, asked.rows, parts)
    examples = divided(asked, asked.examples, parts) if asked.examples else {}
    for part, member in parts.items():
        entry = replace(asked.entry, name=member.name)
        own = Asked(entry, rows[part], examples.get(part), asked.scratch)
        group.add(_checked(own, _build(member, own)))
    return group


def _build(source: Source, asked: Asked) -> Any:
    squad_metrics.offer()
    overrides = {"task": asked.label, **rows_config(asked.rows, asked.examples)}
    if asked.entry.shots is not None:
        overrides["num_fewshot"] = asked.entry.shots
    return TaskFactory().build(source, overrides=overrides, registry={})


def _source(name: str) -> Source:
    """Where lm-eval describes a task.

    Raises:
        InputError: it has none of that name.
    """
    if name in SHIPPED:
        found = TaskIndex.entry_from_path(PLACE / SHIPPED[name])
    elif name in SHIPPED_GROUPS:
        found = _index(SHIPPED_GROUPS[name]).get(name)
    else:
        found = _described(name) or _described(f"blimp_{name}")
    if found is None:
        raise InputError(
            f"{name} is not a task of lm-eval, and its rows have no sentence_good and "
            "sentence_bad; rename the file or give such rows."
        )
    return found


def _described(name: str) -> Source | None:
    """What is called so in lm-eval's folders, of which those alone are read that have the name."""
    line = re.compile(
        rf"^\s*(?:[\"']?(?:task|group|tag)[\"']?\s*:|-)\s*[\"']?{re.escape(name)}[\"']?\s*(?:#.*)?$",
        re.MULTILINE,
    )
    found = {
        PLACE / file.relative_to(PLACE).parts[0]
        for file in PLACE.rglob("*.yaml")
        if line.search(file.read_text(encoding="utf-8", errors="replace"))
    }
    return TaskIndex.build(sorted(found)).get(name)


@cache
def _index(folder: str | None) -> dict[str, Source]:
    """The tasks, groups and tags of a folder of lm-eval's; all of them, in half a minute."""
    if folder:
        return dict(TaskIndex.build([PLACE / folder]))
    return dict(lm_eval.tasks.TaskManager().task_index)
