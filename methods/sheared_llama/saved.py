"""Where Composer's checkpoints lie in a stage's scratch folder. Needs no torch."""

import re
from pathlib import Path

FOLDER = "composer"
FILE = "step{batch}.pt"
LATEST = "latest.pt"
"""A link to the last one, which is made when that is whole."""


def last_step(scratch: Path) -> str | None:
    """`step 120`, of the checkpoint that a resumed run begins with; None: there is none."""
    try:
        found = re.search(r"step(\d+)\.pt$", str((scratch / FOLDER / LATEST).readlink()))
    except OSError:
        return None
    return f"step {found[1]}" if found else None
