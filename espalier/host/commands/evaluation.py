"""The words of an evaluation, and the request that they mean."""

from collections.abc import Mapping
from pathlib import Path

from espalier.contract.discovery import stage_named
from espalier.contract.store import name_after
from espalier.errors import InputError
from espalier.host.commands.sources import default_text, text_named
from espalier.host.draft import Draft

DEFAULT_SUITE = "quick"
TASK_DATA = "TASK_DATA"
EVALUATION = ("SUITE", "DATA", "TASKS", TASK_DATA, "LIMIT", "LEGACY")
"""Assignments of a pipeline that go to its evaluations, not to its method."""


def evaluate(draft: Draft, checkpoint: Path, given: Mapping[str, str]) -> Path:
    """The evaluation of a model; LEGACY=1 takes the method's own pinned harness, BACKEND=jax JAX.

    Raises:
        InputError: JAX is asked for a text's perplexity, or is given no tasks.
    """
    rest = dict(given)
    legacy = rest.pop("LEGACY", "0") not in ("0", "false")
    kind = "legacy" if legacy else "jax" if rest.get("BACKEND") == "jax" else ""
    stage = stage_named(f"eval-{kind}" if kind else "eval")
    inputs = {"model": checkpoint}
    data, tasks = rest.pop("DATA", None), rest.pop(TASK_DATA, None)
    label = rest.pop("NAME", None)
    parameters = stage.parameters.from_assignments(rest)
    if kind == "jax" and data:
        raise InputError("BACKEND=jax measures tasks alone: leave DATA or BACKEND out.")
    if kind == "jax" and not tasks:
        raise InputError("BACKEND=jax measures tasks: give TASK_DATA=<folder of <task>.jsonl>.")
    if data or ("data" in stage.inputs and "data" not in parameters.unused()):
        inputs["data"] = text_named(draft, data or default_text(draft, checkpoint, prune=False))
    if tasks:
        inputs["tasks"] = text_named(draft, tasks)
    suite = rest.get("SUITE", "tasks" if kind == "jax" else DEFAULT_SUITE)
    label = label or (f"{kind}-" if kind else "") + suite
    return draft.make(stage, parameters, inputs, f"{name_after(checkpoint)}/{label}")
