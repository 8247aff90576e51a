"""`results.json`, in the schema of lm-eval: perplexity stands in it as a task of its own."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.contract.files import write_text
from espalier.contract.json_text import from_json, to_json
from espalier.errors import EnvironmentFailure
from eval.headline import is_headline

if TYPE_CHECKING:
    from eval.perplexity import Perplexity

RESULTS = "results.json"
UNKNOWN = "N/A"
"""What lm-eval writes for an error that cannot be told."""
PER_TASK = (
    *("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"),
    "task_hashes",
)
"""The keys of the schema that map a task's name to something."""


def perplexity_results(
    name: str, measured: "Perplexity", record: Mapping[str, Any]
) -> dict[str, Any]:
    """The part of the schema that one perplexity fills."""
    task = f"perplexity/{name}"
    return {
        "results": {
            task: {
                "alias": task,
                "ppl,none": measured.value,
                "ppl_stderr,none": measured.stderr,
                "sample_len": measured.windows,
            }
        },
        "configs": {task: {"task": task, "metric": "ppl,none", "metadata": dict(record)}},
        "versions": {task: 1},
        "n-shot": {task: 0},
        "higher_is_better": {task: {"ppl": False}},
        "n-samples": {
            task: {
                "original": record.get("windows_available", measured.windows),
                "effective": measured.windows,
            }
        },
        "task_hashes": {task: record.get("sha256", "")},
    }


def merged(parts: list[dict[str, Any]], **about: Any) -> dict[str, Any]:
    """One result of several; `about` are the schema's keys that hold for all of it."""
    whole: dict[str, Any] = {key: {} for key in PER_TASK}
    for part in parts:
        for key, value in part.items():
            if key in PER_TASK:
                whole[key].update(value)
            else:
                whole[key] = value
    return whole | about


def write_results(results: Mapping[str, Any], directory: Path) -> Path:
    """Write `results.json` of parts that are `plain`, and see that it is there and can be read.

    Raises:
        EnvironmentFailure: it is not.
    """
    path = directory / RESULTS
    write_text(path, to_json(results, indent=2, ensure_ascii=False) + "\n")
    if not json.loads(path.read_text(encoding="utf-8")).get("results"):
        raise EnvironmentFailure(f"{path} was not written whole; run the same command again.")
    return path


def headline(results: Mapping[str, Any]) -> dict[str, float]:
    """One number a task: the one that counts."""
    return {
        task: float(value)
        for task, metrics in results["results"].items()
        for key, value in metrics.items()
        if is_headline(results, task, key)
    }


def plain(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of results as JSON holds it, in which an error that is not known is so called.

    Raises:
        InputError: a measurement is NaN or infinite.
    """
    cleaned = {**part, "results": {k: _without_nan(v) for k, v in part["results"].items()}}
    found: dict[str, Any] = from_json(to_json(cleaned, default=_plain))
    return found


def _without_nan(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A task's metrics; an error of theirs that is not known is so called, as lm-eval does."""
    return {
        key: UNKNOWN if "_stderr" in key and _is_not_finite(value) else value
        for key, value in metrics.items()
    }


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _plain(value: Any) -> Any:
    """Scalars of numpy and torch as numbers, everything else (functions, paths) by its name."""
    if hasattr(value, "item"):
        return value.item()
    return getattr(value, "__qualname__", None) or str(value)
