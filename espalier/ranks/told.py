"""What ranks leave of their failures: torchrun's agent only passes on that a process has failed.

Each that refused something leaves `error-<rank>.json` in the scratch folder.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.processes import Share
from espalier.errors import EspalierError, Interrupted

ANY = "error-*.json"


class RankRefused(EspalierError):
    """What a rank has refused, with its own exit code."""

    def __init__(self, failure: Mapping[str, Any]) -> None:
        super().__init__(str(failure["text"]))
        self.exit_code = int(failure["code"])


def leave(scratch: Path, share: Share, failure: EspalierError) -> None:
    """Note a rank's failure for the stage, and for the other ranks."""
    said = {"kind": type(failure).__name__, "code": failure.exit_code, "text": str(failure)}
    write_text(scratch / f"error-{share.rank}.json", to_json(said))


def any_told(scratch: Path) -> bool:
    """Whether a rank has failed and said why."""
    return any(scratch.glob(ANY))


def told(scratch: Path) -> list[dict[str, Any]]:
    """Every rank's failure that was noted."""
    return [json.loads(path.read_text()) for path in sorted(scratch.glob(ANY))]


def can_resume(failure: Mapping[str, Any]) -> bool:
    """Whether the same command goes on."""
    return bool(failure["code"] == Interrupted.exit_code)


def require_none(scratch: Path) -> None:
    """Refuse to go on where a rank has failed.

    Raises:
        RankRefused: one has; that another is gone says less than why it is.
    """
    if failures := told(scratch):
        raise RankRefused(min(failures, key=can_resume))


def forget(scratch: Path) -> None:
    """Remove what an earlier run's ranks have left."""
    for path in scratch.glob(ANY):
        path.unlink(missing_ok=True)
