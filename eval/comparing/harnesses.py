"""Which tasks lm-eval 0.4.13 and 0.3.0 can both be asked, said on the host before anything runs."""

from collections.abc import Iterable
from pathlib import Path

from espalier.data.formats import LINES
from espalier.data.task_rows import EXAMPLES, is_minimal_pair
from espalier.errors import InputError
from eval.suites.entry import Entry

BOTH = frozenset(Path(__file__).with_name("both.txt").read_text("utf-8").split())
"""Single tasks that both have under one name; of BLiMP both take whatever rows are pairs."""
OWN_EXAMPLES = {"gsm8k": 5}
"""Tasks before whose questions 0.4.13 puts examples unasked, as 0.3.0 does before none."""


def require_comparable(entries: Iterable[Entry], folder: Path) -> None:
    """Refuse what the two cannot both be asked, as far as it is seen without either.

    Args:
        entries: the tasks; none: those of all files in the folder.
        folder: of their rows; one that is not there yet is not looked into.

    Raises:
        InputError: one of them lacks a task, or the task would have examples.
    """
    for entry in tuple(entries) or _entries(folder):
        if entry.shots or (entry.shots is None and entry.name in OWN_EXAMPLES):
            count = entry.shots or OWN_EXAMPLES[entry.name]
            raise InputError(
                f"{entry.name} with {count} examples cannot be compared, since each release draws "
                f"its own and every prompt would differ; write TASKS={entry.name}:0."
            )
        if entry.name not in BOTH and not _are_pairs(folder / f"{entry.name}{LINES}"):
            raise InputError(
                f"{entry.name} is not a task of both lm-eval 0.4.13 and 0.3.0, and its rows have "
                "no sentence_good and sentence_bad; name others with TASKS=."
            )


def _entries(folder: Path) -> list[Entry]:
    names = [path.name.removesuffix(LINES) for path in sorted(folder.glob(f"*{LINES}"))]
    return [Entry(name) for name in names if not name.endswith(EXAMPLES)]


def _are_pairs(rows: Path) -> bool:
    """Whether rows are minimal pairs, or not there to be looked at: then the stages tell."""
    return not rows.is_file() or is_minimal_pair(rows)
