"""Samples of tasks that lm-eval 0.4 has put to a model, whichever backend it was."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from espalier.data.task_columns import read_rows
from espalier.data.task_rows import SPLIT
from eval.samples.noting import Noting, places
from eval.samples.sample import Sample


def samples_of(task: Any, noting: Noting) -> Iterator[Sample]:
    """Those of a single task after it was evaluated, in the order of its rows.

    A request that is asked several times has its first answer.

    Args:
        task: a task object of lm-eval 0.4 that reads its rows from a file.
        noting: listened to the model meanwhile.
    """
    path = Path(task.config.dataset_kwargs["data_files"][SPLIT])
    lines = places([line for line, _ in read_rows(path)], len(task.eval_docs))
    for instance in sorted(task.instances, key=lambda one: (one.doc_id, one.idx)):
        document = lines[instance.doc_id]
        of = {"task": task.config.task, "document": document, "request": instance.idx}
        yield noting.sample(of, instance.request_type, instance.args, instance.resps[0])
