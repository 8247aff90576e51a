"""What unfinished work on a store a later command goes on with, and that none of it is lost."""

from dataclasses import dataclass, field
from pathlib import Path

from espalier.contract.made import MADE
from espalier.contract.manifest import MANIFEST, RUN_FOLDER
from espalier.contract.saved import saved_in
from espalier.contract.store import PARTIAL, Store
from espalier.errors import InputError
from tests.soak.promises import Broken

COMPLETE = "its end"


@dataclass
class Census:
    """The unfinished work of one draw, whose results' names hold the draw's own.

    Attributes:
        known: what could be resumed when it was last looked for, and from where.
    """

    store: Store
    name: str
    known: dict[Path, str] = field(default_factory=dict)

    def look(self, refused: bool = False) -> dict[Path, str]:
        """What can be resumed now.

        Args:
            refused: whether a command has refused its input since the last look.

        Raises:
            Broken: what could be resumed at the last look is gone, and nothing came of it.
        """
        now = {path: place for path in self._partials() if (place := resumed_from(path))}
        for path, place in self.known.items():
            published = (self.store.target_of(path) / MANIFEST).is_file()
            if path not in now and not published and not refused:
                what = "is gone" if not path.exists() else "has lost it"
                raise Broken(f"{path.name} could be resumed from {place}, and {what}")
        self.known = now
        return now

    def _partials(self) -> list[Path]:
        return [
            path
            for path in self.store.leftovers()
            if PARTIAL in path.name and self.name in path.relative_to(self.store.root).parts[1]
        ]


def resumed_from(partial: Path) -> str | None:
    """Where the same command goes on; None: at the beginning."""
    try:
        if (partial / MANIFEST).is_file() or (partial / RUN_FOLDER / MADE).is_file():
            return COMPLETE
        return saved_in(partial)
    except (OSError, InputError):  # it is being published
        return None
