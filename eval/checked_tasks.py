"""Tasks of lm-eval 0.4, each question of which can be put to the model. Needs no torch."""

import functools
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from espalier.data.task_columns import line_of, read_rows
from espalier.data.token_ids import ModelLimits
from espalier.models.tokenizer import load_tokenizer
from eval.asked import Asked
from eval.asking import EXAMPLES_SEED
from eval.questions import Question, Reader, fitting
from eval.tasks import harness_task, leaves


def checked_tasks(
    asked: Mapping[str, Asked], checkpoint: Path, limit: int | None
) -> dict[str, Any]:
    """Task objects by label, each question of which can be put to the model; that is not loaded.

    Args:
        asked: tasks by their labels.
        checkpoint: the model's directory: its tokenizer and positions.
        limit: at most so many rows a task.

    Raises:
        InputError: a task, its metric, its examples or a row is not usable.
    """
    tokenizer = load_tokenizer(checkpoint)
    begin = tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None
    reader = Reader(tokenizer, ModelLimits.of(checkpoint).positions, begin)
    tasks = {}
    for label, one in asked.items():
        with fitting(one.entry.name, str(one.rows)):
            tasks[label] = harness_task(one)
        for leaf in leaves(tasks[label]):
            _check(leaf, one, reader, limit)
    return tasks


def _check(task: Any, asked: Asked, reader: Reader, limit: int | None) -> None:
    """Look at every question of a single task."""
    with fitting(task.task_name, str(asked.rows)):
        documents = list(task.eval_docs)
    place = _Places(asked.rows, len(documents))
    task.set_fewshot_seed(EXAMPLES_SEED)  # the examples that the run is going to draw
    with fitting(task.task_name, functools.partial(place.of_unusable, task, limit)):
        task.build_all_requests(limit=limit)
    reader.check(
        Question(place.of(instance.doc_id), *instance.args)
        for instance in task.instances
        if instance.request_type == "loglikelihood"
    )


class _Places:
    """Where a task's documents are written."""

    def __init__(self, path: Path, documents: int) -> None:
        self._path, self._rows, self._documents = path, read_rows(path), documents

    def of(self, index: int) -> str:
        """File and line of a document."""
        return f"{self._path}{line_of(self._rows, index, self._documents)}"

    def of_unusable(self, task: Any, limit: int | None) -> str:
        """The first document that the task's own code fails on."""
        for index, document in enumerate(islice(task.eval_docs, limit)):
            try:
                task.doc_to_text(document)
                task.doc_to_target(document)
                if task.config.doc_to_choice is not None:
                    task.doc_to_choice(document)
            except Exception:  # noqa: BLE001
                return self.of(index)
        return str(self._path)
