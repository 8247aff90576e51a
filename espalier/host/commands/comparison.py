"""The words of a comparison of two harnesses, and the two evaluations that it is of."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.contract.discovery import stage_named
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.commands.evaluation import LOG_SAMPLES, TASK_DATA, evaluate
from espalier.host.commands.sources import text_named
from espalier.host.draft import Draft

REPORT = "eval.comparing.table:report"
"""What tells of two evaluations with samples."""
HARNESSES = "eval.comparing.harnesses"
WORDS = ("SUITE", "TASKS", TASK_DATA, "LIMIT", "BATCH", "DTYPE")
"""What both evaluations take alike."""
RESULTS = "results.json"


def compare_harnesses(draft: Draft, checkpoint: Path, given: Mapping[str, str]) -> Path:
    """Evaluate a model with both harnesses, and tell of both in one table.

    The older one comes first: it knows fewer tasks and models, and refuses before it loads any.

    Raises:
        InputError: another word is given, no tasks are, or one that they cannot both be asked.
    """
    if unknown := sorted(given.keys() - set(WORDS)):
        known = ", ".join(("CKPT", "MODEL", "REVISION", *WORDS))
        raise InputError(f"{', '.join(unknown)} is not a parameter here (known: {known}).")
    if not given.get(TASK_DATA):
        raise InputError(
            f"give {TASK_DATA}=<folder of <task>.jsonl>, the rows that both harnesses are asked."
        )
    words = {"SUITE": "tasks", **given, LOG_SAMPLES: "1"}
    asked = {name: value for name, value in words.items() if name != TASK_DATA}
    parameters: Any = stage_named("eval").parameters.from_assignments(asked)
    if "data" not in parameters.unused():
        raise InputError(
            f"SUITE={parameters.suite} measures a text; give a suite of tasks, such as wanda-table."
        )
    comparable: Any = importlib.import_module(HARNESSES)
    comparable.require_comparable(parameters.entries, text_named(draft, given[TASK_DATA]))
    old = evaluate(draft, checkpoint, {**words, "LEGACY": "1"})
    new = evaluate(draft, checkpoint, words)
    draft.step("compare-harness", [old, new], tables=[(old, new)], report=REPORT)
    return new


def evaluation_named(store: Store, name: str, variable: str) -> Path:
    """The directory of an evaluation: a path, or `<checkpoint>/<evaluation>` on the store.

    Raises:
        InputError: there is none.
    """
    places = (Path(name).expanduser(), store.root / "evals" / name)
    for place in places if name else ():
        if (place / RESULTS).is_file():
            return place
    raise InputError(
        f"{variable}={name} is no evaluation; give a path, or <checkpoint>/<suite> of the store's "
        "evals."
    )
