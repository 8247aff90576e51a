"""Tasks put to a model by lm-eval 0.4, in this process. Needs no torch by itself."""

import logging
from itertools import chain
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.group import Group
from lm_eval.tasks import TaskManager

from espalier.data.text import sha256_of_file
from eval.asked import Asked
from eval.headline import name_metrics
from eval.samples.current import samples_of
from eval.samples.noting import Noting
from eval.samples.sample import write_samples
from eval.task_groups import describe_group
from eval.tasks import leaves

EXAMPLES_SEED = 1234
"""lm-eval's own, by which examples are drawn."""


def ask(
    lm: Any, asked: Asked, task: Any, limit: int | None, samples: Path | None = None
) -> dict[str, Any]:
    """Results of a task in lm-eval's schema.

    Args:
        lm: a model of lm-eval's, which says by `account` how it was run since `begin_task`.
        asked: what is asked.
        task: the task, or group, that `checked_tasks` gives for it.
        limit: at most so many rows a task.
        samples: where each request is written with its answer; None: nowhere.
    """
    noting = Noting(lm) if samples else None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of a model given as an object
    lm.begin_task()
    results: dict[str, Any] = lm_eval.simple_evaluate(
        model=lm,
        tasks=[task],
        limit=limit,
        log_samples=False,
        bootstrap_iters=1000,
        fewshot_random_seed=EXAMPLES_SEED,
        # The tasks are there; lm-eval's default reads all of its YAML first, for half a minute.
        task_manager=TaskManager(include_defaults=False),
    )
    if samples and noting:
        write_samples(samples, chain.from_iterable(samples_of(o, noting) for o in leaves(task)))
    if isinstance(task, Group):
        describe_group(results, task)
    name_metrics(results, {asked.label: asked.entry.metric})
    results["config"] |= {"begin_token": _begin_token(lm)} | lm.account()
    return results | {"task_hashes": {asked.label: sha256_of_file(asked.rows)}}


def _begin_token(lm: Any) -> dict[str, str | None]:
    """What the harness begins with, and before which contexts it stands."""
    tokenizer = lm.tokenizer
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if begin is None:
        return {"token": None, "before": "no context"}
    always = lm.tok_encode("a")[:1] == [begin]
    before = "every context" if always else "empty contexts"
    rolling = "twice" if always and lm.bos == "harness" else "once"
    return {"token": tokenizer.decode([begin]), "before": before, "rolling": rolling}
