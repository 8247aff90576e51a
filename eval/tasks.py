"""Tasks whose rows lie in a folder: `<task>.jsonl`, the evaluated split as the hub has it.

Names that lm-eval knows are its own tasks, prompts and versions, given our rows. Rows of
`sentence_good` and `sentence_bad` are a minimal-pair task (BLiMP) whatever their name.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espalier.errors import InputError
from espalier.text import sha256_of_file

MINIMAL_PAIR = {"sentence_good", "sentence_bad"}
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


def task_files(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The row file of each task; of every file in the folder where none is named.

    Raises:
        InputError: a file is missing, or there are none.
    """
    if not folder.is_dir():
        raise InputError(f"TASK_DATA={folder} is not a folder; give one of <task>.jsonl files.")
    present = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    if not present:
        raise InputError(f"TASK_DATA={folder} holds no <task>.jsonl; put the tasks' rows there.")
    if missing := [name for name in names if name not in present]:
        raise InputError(
            f"TASK_DATA={folder} lacks {', '.join(f'{name}.jsonl' for name in missing)}; put the "
            "evaluated split's rows there, or name the tasks that are there with TASKS=."
        )
    return {name: present[name] for name in names or present}


def is_minimal_pair(path: Path) -> bool:
    """Whether a file's first row is a minimal pair.

    Raises:
        InputError: the first line is not a JSON object.
    """
    with path.open(encoding="utf-8") as lines:
        try:
            row = json.loads(lines.readline())
        except ValueError:
            row = None
    if not isinstance(row, dict):
        raise InputError(f"{path} is not JSON lines; each line has to be a row of the task.")
    return row.keys() >= MINIMAL_PAIR


def harness_task(name: str, path: Path) -> Any:
    """A task object of lm-eval 0.4 that reads its rows from `path`.

    Raises:
        InputError: neither minimal pairs nor a task of lm-eval.
    """
    from lm_eval.api.task import ConfigurableTask

    rows = {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(path.resolve())}},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": None,
    }
    if is_minimal_pair(path):
        return ConfigurableTask(config=_minimal_pair(name) | rows | _version(path))
    task = _build(name, rows)
    task.config.metadata = (task.config.metadata or {}) | _version(path, task)["metadata"]
    return task


def _minimal_pair(name: str) -> dict[str, Any]:
    return {
        "task": name,
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


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
