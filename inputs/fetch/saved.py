"""How far a fetch has come. Needs no client of the hub."""

from pathlib import Path

from espalier.contract.manifest import METRICS, RUN_FOLDER

DOWNLOADS = ("hub", "hub-cache")
"""Folders of the scratch folder."""


def begun(scratch: Path) -> str | None:
    """Whether anything is there that a later run need not fetch again."""
    output = scratch.parent.parent
    own = (RUN_FOLDER, METRICS)
    places = [scratch / name for name in DOWNLOADS]
    places += [path for path in output.glob("*") if path.name not in own]
    files = (file for place in places for file in (place, *place.rglob("*")) if file.is_file())
    return "where the download stopped" if any(file.stat().st_size for file in files) else None
