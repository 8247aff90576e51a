"""What a stage says it has made, kept until its result is checked, perhaps by another image."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from espalier.contract.files import sync_tree, write_text
from espalier.contract.json_text import require_finite
from espalier.contract.manifest import Record
from espalier.contract.pruned import as_pruned
from espalier.contract.stage import Outcome

MADE = "made.json"
"""In the run's folder, where another image checks the result."""


class Made(Record):
    """A stage's outcome and what it took.

    Attributes:
        environment: of the image that made it.
        started: in UTC, as ISO 8601 has it.
    """

    outcome: dict[str, Any]
    environment: dict[str, Any]
    started: str
    seconds: float
    peak_memory_bytes: int

    @classmethod
    def read(cls, folder: Path) -> "Made | None":
        """What an earlier process has left in the run's folder."""
        path = folder / MADE
        return cls.model_validate_json(path.read_bytes()) if path.is_file() else None

    def write(self, folder: Path) -> None:
        """Say so in the run's folder, once all that was made beside it is on the disk.

        Raises:
            InputError: a number is NaN or infinite.
            EnvironmentFailure: the disk is full or cannot be written.
        """
        require_finite(self.model_dump())
        sync_tree(folder.parent)
        write_text(folder / MADE, self.model_dump_json())

    @classmethod
    def of(cls, outcome: Outcome, **took: Any) -> "Made":
        return cls(outcome=asdict(outcome), **took)

    def as_outcome(self) -> Outcome:
        return Outcome(**{**self.outcome, "pruning": as_pruned(self.outcome["pruning"])})
