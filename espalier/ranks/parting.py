"""How the machines of a run end: those that have no more to do stay until the first one is done.

Slurm ends a step soon after the first of its tasks, and the first machine still checks what was
trained, or extracts a model from it.
"""

import time
from pathlib import Path

from espalier.contract.manifest import MANIFEST

LOOKS = 1.0
"""Seconds between two looks."""


def wait_for_the_first(output: Path, looks: float = LOOKS) -> None:
    """Until the partial result, which all machines see, is complete or gone.

    Args:
        output: that directory.
        looks: seconds between two looks.
    """
    while output.is_dir() and not (output / MANIFEST).is_file():
        time.sleep(looks)
