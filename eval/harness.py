"""lm-eval 0.4, in this process and without a network."""

import functools
import logging
from itertools import islice
from pathlib import Path
from typing import Any

import lm_eval

from espalier.data.task_columns import line_of, read_rows
from espalier.data.text import sha256_of_file
from espalier.data.token_ids import ModelLimits
from espalier.models.tokenizer import load_tokenizer
from eval.planned import PlannedLM
from eval.questions import Question, Reader, fitting
from eval.quiet import QuietLM
from eval.tasks import harness_task


def checked_tasks(files: dict[str, Path], checkpoint: Path, limit: int | None) -> list[Any]:
    """Task objects of which each question can be put to the model, which is not loaded for that.

    Args:
        files: task to the file of its rows.
        checkpoint: the model's directory: its tokenizer and positions.
        limit: at most so many rows a task.

    Raises:
        InputError: a task or a row is not usable.
    """
    tokenizer = load_tokenizer(checkpoint)
    begin = tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None
    reader = Reader(tokenizer, ModelLimits.of(checkpoint).positions, begin)
    tasks = []
    for name, path in files.items():
        with fitting(name, str(path)):
            task = harness_task(name, path)
            documents = list(task.eval_docs)
        place = _Places(path, len(documents))
        with fitting(name, functools.partial(place.of_unusable, task, limit)):
            task.build_all_requests(limit=limit)
        reader.check(
            Question(place.of(instance.doc_id), *instance.args)
            for instance in task.instances
            if instance.request_type == "loglikelihood"
        )
        tasks.append(task)
    return tasks


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


def run_tasks(
    model: Any,
    checkpoint: Path,
    files: dict[str, Path],
    tasks: list[Any],
    *,
    batch: int,
    limit: int | None,
    backend: str = "hf",
) -> dict[str, Any]:
    """Results of tasks in lm-eval's schema, without samples.

    Args:
        model: loaded by `load_model`.
        checkpoint: its directory, which has its tokenizer.
        files: task to the file of its rows.
        tasks: what `checked_tasks` gives.
        batch: sequences at a time.
        limit: at most so many rows a task.
        backend: `hf` for lm-eval's own way, `torch` for rows of a prefix tree.

    Raises:
        InputError: the model gives NaN or infinities.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of a model given as an object
    kind = PlannedLM if backend == "torch" else QuietLM
    lm = kind(pretrained=model, tokenizer=load_tokenizer(checkpoint), batch_size=batch)
    results: dict[str, Any] = lm_eval.simple_evaluate(
        model=lm, tasks=tasks, limit=limit, log_samples=False, bootstrap_iters=1000
    )
    results["config"] = results["config"] | lm.account()
    return results | {"task_hashes": {n: sha256_of_file(path) for n, path in files.items()}}
