"""Which of a run's states on the disk are whole. Needs no torch."""

from pathlib import Path

STATES, COMPLETE = "state", ".metadata"


def complete_steps(folder: Path) -> list[int]:
    """Steps whose checkpoint was written to its end."""
    return [
        int(place.name.rpartition("-")[2])
        for place in folder.glob("step-*")
        if (place / COMPLETE).is_file()
    ]


def last_step(scratch: Path) -> str | None:
    """Where a run that works in `scratch` goes on."""
    steps = complete_steps(scratch / STATES)
    return f"step {max(steps)}" if steps else None
