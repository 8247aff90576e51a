"""The words of an evaluation, and the request that they mean."""

from collections.abc import Mapping
from pathlib import Path

from espalier.contract.discovery import stage_named
from espalier.contract.store import name_after
from espalier.host.commands.sources import default_text, text_named
from espalier.host.draft import Draft

DEFAULT_SUITE = "quick"
TASK_DATA = "TASK_DATA"
EVALUATION = ("SUITE", "DATA", "TASKS", TASK_DATA, "LIMIT", "LEGACY")
"""Assignments of a pipeline that go to its evaluations, not to its method."""


def evaluate(draft: Draft, checkpoint: Path, given: Mapping[str, str]) -> Path:
    """The evaluation of a model; LEGACY=1 takes the method's own pinned harness."""
    rest = dict(given)
    legacy = rest.pop("LEGACY", "0") not in ("0", "false")
    stage = stage_named("eval-legacy" if legacy else "eval")
    inputs = {"model": checkpoint}
    data, tasks = rest.pop("DATA", None), rest.pop(TASK_DATA, None)
    suite = rest.get("SUITE", DEFAULT_SUITE)
    if data or ("data" in stage.inputs and suite in ("quick", "perplexity")):
        inputs["data"] = text_named(draft, data or default_text(draft, checkpoint, prune=False))
    if tasks:
        inputs["tasks"] = text_named(draft, tasks)
    label = rest.pop("NAME", None) or ("legacy-" if legacy else "") + suite
    return draft.make(stage, rest, inputs, f"{name_after(checkpoint)}/{label}")
