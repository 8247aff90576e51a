"""Where a run's states are, and the last of them. Needs no JAX."""

import os
from pathlib import Path

STATES = "ESPALIER_STATE"
"""Names a folder, which may be gs://, for the run's states where its scratch does not survive."""
STEPS = "steps"


def folder_of_states(scratch: Path) -> str:
    """The folder of a run that works in `scratch`."""
    return os.environ.get(STATES) or str(scratch.resolve() / "state")


def last_step(scratch: Path) -> str | None:
    """Where the run goes on; None also where the states are in a bucket."""
    folder = Path(folder_of_states(scratch)) / STEPS
    # Orbax writes under another name, and gives a state its step's number once it is whole.
    steps = [int(state.name) for state in folder.glob("*") if state.name.isdigit()]
    return f"step {max(steps)}" if steps else None
