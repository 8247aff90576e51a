"""Which of a task's numbers counts: the one that its results name, else the usual one.

Read on the host too: nothing of the model stack is imported.
"""

from collections.abc import Mapping
from typing import Any

USUAL = ("ppl,none", "acc,none")
"""What counts where results name nothing; a table shows `ALSO` beside it."""
ALSO = ("acc_norm,none",)


def name_metrics(results: Mapping[str, Any], metrics: Mapping[str, str | None]) -> None:
    """Write into results which key of each task is the one that counts.

    Args:
        results: in lm-eval's schema; `configs.<task>.metadata.metric` is set.
        metrics: task to metric, `acc_norm` for example; None: nobody has said.
    """
    for task, metric in metrics.items():
        keys = (key for key in results["results"][task] if key.partition(",")[0] == metric)
        if key := next(keys, None):
            config = results["configs"].setdefault(task, {"task": task})
            config["metadata"] = {**(config.get("metadata") or {}), "metric": key}


def about(results: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """What is recorded of how a task was measured; nothing where that is not in the schema."""
    configs = results.get("configs")
    config = configs.get(task) if isinstance(configs, Mapping) else None
    metadata = config.get("metadata") if isinstance(config, Mapping) else None
    return metadata if isinstance(metadata, Mapping) else {}


def named_key(results: Mapping[str, Any], task: str) -> str | None:
    """The key that results name for a task, and have: `acc_norm,none`."""
    key = about(results, task).get("metric")
    return key if isinstance(key, str) and key in results["results"][task] else None


def is_headline(results: Mapping[str, Any], task: str, key: str) -> bool:
    """Whether it is a task's number that counts."""
    named = named_key(results, task)
    return key == named if named else key in USUAL


def shown_keys(results: Mapping[str, Any], task: str) -> tuple[str, ...]:
    """The keys of a task that a short table shows."""
    named = named_key(results, task)
    return (named,) if named else tuple(k for k in (*USUAL, *ALSO) if k in results["results"][task])
