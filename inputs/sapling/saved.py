"""How far sapling has grown. Needs no torch."""

from pathlib import Path

from training.gpu_fsdp.saved import last_step

TRAINING = "training"


def grown(scratch: Path) -> str | None:
    """The last step that is saved; text and tokens are made anew, in seconds."""
    return last_step(scratch / TRAINING)
