"""The words of an evaluation, and the request that they mean."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.contract.discovery import stage_named
from espalier.contract.store import name_after
from espalier.errors import InputError
from espalier.host.commands.sources import default_text, text_named
from espalier.host.draft import Draft

DEFAULT_SUITE = "quick"
TASK_DATA, LOG_SAMPLES = "TASK_DATA", "LOG_SAMPLES"
EVALUATION = ("SUITE", "DATA", "TASKS", TASK_DATA, "LIMIT", "LEGACY")
"""Assignments of a pipeline that go to its evaluations, not to its method."""


def evaluate(draft: Draft, checkpoint: Path, given: Mapping[str, str]) -> Path:
    """The evaluation of a model; LEGACY=1 takes the method's own pinned harness, BACKEND=jax JAX.

    Raises:
        InputError: a word is not known, or LOG_SAMPLES=1 has no tasks.
    """
    rest = dict(given)
    legacy = rest.pop("LEGACY", "0") not in ("0", "false")
    kind = "legacy" if legacy else "jax" if rest.get("BACKEND") == "jax" else ""
    stage = stage_named(f"eval-{kind}" if kind else "eval")
    inputs = {"model": checkpoint}
    data, tasks = rest.pop("DATA", None), rest.pop(TASK_DATA, None)
    label = rest.pop("NAME", None)
    parameters: Any = stage.parameters.from_assignments(rest)
    if parameters.log_samples and not tasks:
        raise InputError(
            f"{LOG_SAMPLES}=1 writes what tasks ask: give TASK_DATA=<folder of <task>.jsonl>."
        )
    if data or "data" not in parameters.unused():
        inputs["data"] = text_named(draft, data or default_text(draft, checkpoint, prune=False))
    if tasks:
        inputs["tasks"] = text_named(draft, tasks)
    suite = rest.get("SUITE", DEFAULT_SUITE)
    default = "-".join(filter(None, (kind, suite, "samples" if parameters.log_samples else "")))
    return draft.make(stage, parameters, inputs, f"{name_after(checkpoint)}/{label or default}")
