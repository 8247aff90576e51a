"""Task objects of lm-eval 0.4.13 that read their rows from files (espalier.data.task_rows)."""

from pathlib import Path
from typing import Any

from espalier.data.task_rows import is_minimal_pair, minimal_pair_config, rows_config
from espalier.data.text import sha256_of_file
from espalier.errors import InputError

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
}
"""Where lm-eval keeps the tasks of the papers; finding any other means reading all its YAML."""


def harness_task(name: str, path: Path) -> Any:
    """A task object of lm-eval 0.4 that reads its rows from `path`.

    Raises:
        InputError: neither minimal pairs nor a task of lm-eval.
    """
    from lm_eval.api.task import ConfigurableTask

    rows = rows_config(path)
    if is_minimal_pair(path):
        return ConfigurableTask(config=minimal_pair_config(name) | rows | _version(path))
    task = _build(name, rows)
    task.config.metadata = (task.config.metadata or {}) | _version(path, task)["metadata"]
    return task


def _version(path: Path, task: Any = None) -> dict[str, Any]:
    version = 1.0 if task is None else task.VERSION
    return {"metadata": {"version": version, "rows_sha256": sha256_of_file(path)}}


def _build(name: str, overrides: dict[str, Any]) -> Any:
    import lm_eval.tasks
    from lm_eval.tasks._factory import TaskFactory  # the public manager takes no overrides
    from lm_eval.tasks._index import TaskIndex

    if name in SHIPPED:
        entry = TaskIndex.entry_from_path(Path(lm_eval.tasks.__file__).parent / SHIPPED[name])
        index = {}
    else:
        index = dict(lm_eval.tasks.TaskManager().task_index)
        entry = index.get(name) or index.get(f"blimp_{name}")
    if entry is None:
        raise InputError(
            f"{name} is not a task of lm-eval, and its rows have no sentence_good and "
            "sentence_bad; rename the file or give such rows."
        )
    return TaskFactory().build(entry, overrides=overrides, registry=index)
