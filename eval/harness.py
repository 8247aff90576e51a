"""lm-eval 0.4, in this process and without a network."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from espalier.models.tokenizer import load_tokenizer
from eval.asked import Asked
from eval.asking import ask
from eval.checked_tasks import checked_tasks
from eval.parts import Part
from eval.planned import PlannedLM
from eval.quiet import QuietLM
from eval.samples.sample import samples_of_task

__all__ = ["checked_tasks", "task_measures"]


def task_measures(
    model: Any,
    checkpoint: Path,
    asked: Mapping[str, Asked],
    tasks: Mapping[str, Any],
    *,
    batch: int,
    limit: int | None,
    bos: str = "harness",
    backend: str = "hf",
    samples: Path | None = None,
) -> dict[str, Callable[[], Part]]:
    """What measures each task, by its label: results in lm-eval's schema.

    Args:
        model: loaded by `load_model`.
        checkpoint: its directory, which has its tokenizer.
        asked: tasks by their labels.
        tasks: what `checked_tasks` gives.
        batch: sequences at a time.
        limit: at most so many rows a task.
        bos: of rolling texts: `harness` as lm-eval does it, `once` without the tokenizer's own.
        backend: `hf` for lm-eval's own way, `torch` for rows of a prefix tree.
        samples: a folder for each task's requests with their answers; None: they are not written.

    A measure raises InputError where the model gives NaN or infinities.
    """
    kind = PlannedLM if backend == "torch" else QuietLM
    lm = kind(pretrained=model, tokenizer=load_tokenizer(checkpoint), batch_size=batch, bos=bos)
    return {
        label: partial(
            ask, lm, one, tasks[label], limit, samples and samples_of_task(samples, label)
        )
        for label, one in asked.items()
    }
