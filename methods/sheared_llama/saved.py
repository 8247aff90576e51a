"""Where Composer's checkpoints lie in a stage's scratch folder. Needs no torch."""

import re
from pathlib import Path

FOLDER = "composer"
EXTRACTED = "extracted"
"""The folder of what masks left, while it is trained on."""
SAMPLER = "sampler.json"
"""Where the learning of masks stopped, for the training that follows."""
STOP = "stop"
"""The file that asks ranks to stop."""
RECOVERY = "recovery"
"""The folder of the training that follows masks."""
FILE = "step{batch}.pt"
LATEST = "latest.pt"
"""A link to the last one, which is made when that is whole."""


def steps_saved(scratch: Path, folder: str = FOLDER) -> int:
    """Steps that the last checkpoint has behind it; 0: there is none."""
    try:
        found = re.search(r"step(\d+)\.pt$", str((scratch / folder / LATEST).readlink()))
    except OSError:
        return 0
    return int(found[1]) if found else 0


def last_step(scratch: Path) -> str | None:
    """`step 120`, from which a later run goes on; None: at the beginning."""
    steps = steps_saved(scratch) + steps_saved(scratch, RECOVERY)
    return f"step {steps}" if steps else None
