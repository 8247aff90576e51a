"""How far a run is, where it works, and how it is asked to stop. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Facts:
    """What is known of the run so far, saved with every checkpoint.

    Attributes:
        loss: of the last step.
        best: step and validation loss of the best weights so far; they lie in the folder `best`.
        valid: every validation: step and loss.
    """

    loss: float | None = None
    best: tuple[int, float] | None = None
    valid: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> "Facts":
        """As they lie beside a state."""
        return cls(
            loss=saved["loss"],
            best=tuple(saved["best"]) if saved["best"] else None,
            valid=[(int(at), float(loss)) for at, loss in saved["valid"]],
        )


@dataclass(frozen=True)
class RunFolders:
    """Where a run works.

    Attributes:
        scratch: of training states and of the best weights so far; it survives an interruption.
        output: the directory that is published.
        stop: a file that asks for an end as soon as it is there.
    """

    scratch: Path
    output: Path

    @property
    def stop(self) -> Path:
        return self.scratch / "stop"

    @property
    def best(self) -> Path:
        """Of the output: the weights with the lowest validation loss, where others came later."""
        return self.output / "best"
