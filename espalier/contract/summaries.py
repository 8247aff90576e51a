"""What a list says of each artifact, kept so that a store of many is listed at once."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.manifest import MANIFEST
from espalier.contract.store import Store
from espalier.errors import EspalierError

KEPT = "summaries.json"
"""Below the store's cache: what was read of each manifest, by its size and time."""


@dataclass(frozen=True)
class Summary:
    """A line of a list.

    Attributes:
        stage: what made it; empty where its manifest cannot be read.
        size: bytes of its files.
        parameters: of a model; None of anything else.
        nonzero: those of them that are not zero.
    """

    stage: str
    size: int = 0
    parameters: int | None = None
    nonzero: int | None = None


def summaries(store: Store) -> Iterator[tuple[str, str, Summary]]:
    """Section, name and summary of everything published; only what has changed is read."""
    kept_file = store.root / "cache" / KEPT
    before = _kept(kept_file)
    now: dict[str, Any] = {}
    for section, name, directory in store.artifacts():
        status = (directory / MANIFEST).stat()
        seen = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = before.get(f"{section}/{name}", {})
        if known.get("seen") != seen:
            known = {"seen": seen, **asdict(_read(directory / MANIFEST))}
        now[f"{section}/{name}"] = known
        yield section, name, Summary(**{k: v for k, v in known.items() if k != "seen"})
    if now != before:
        _keep(kept_file, now)


def _read(manifest: Path) -> Summary:
    """What a manifest says, whatever else is wrong with it."""
    try:
        content = json.loads(manifest.read_bytes())
        model = content.get("model") or {}
        return Summary(
            stage=str(content["stage"]),
            size=sum(int(file["size"]) for file in content["files"]),
            parameters=_count(model.get("parameters")),
            nonzero=_count(model.get("nonzero")),
        )
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ):
        return Summary(stage="")


def _count(value: Any) -> int | None:
    return int(value) if value else None


def _kept(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_bytes())
        wanted = {"seen", *Summary.__dataclass_fields__}
        return kept if all(set(entry) == wanted for entry in kept.values()) else {}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _keep(path: Path, summaries: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, to_json(summaries))
    except (OSError, EspalierError):
        pass  # a store that cannot be written only costs the time
