"""The table at a soak's end."""

from collections import Counter
from collections.abc import Iterator

from tests.soak.faults import FAULTS
from tests.soak.striking import Counts
from tests.soak.tpu_faults import TPU_FAULTS

COLUMNS = ("struck", "done", "resumed", "begun anew", "not reached")


def table(counts: Counts) -> Iterator[str]:
    """A line a fault, and what was looked at in all."""
    total: Counter[str] = Counter()
    yield f"| fault | {' | '.join(COLUMNS)} |"
    yield f"|--{'|--' * len(COLUMNS)}|"
    for name in (*FAULTS, *TPU_FAULTS):
        if row := counts.rows.get(name):
            total.update(row)
            yield line(name, row)
    yield line("all", total)
    yield (
        f"{counts.artifacts} artifacts, each verified and equal to that of a run without a fault; "
        f"{counts.censuses} looks at what could be resumed, of which {counts.resumable} were lost "
        "never."
    )


def line(name: str, row: Counter[str]) -> str:
    return f"| {name} | {' | '.join(str(row[column]) for column in COLUMNS)} |"
