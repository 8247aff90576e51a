"""A manifest as others may read it: without the places of the machine that wrote it.

Its command is how one machine started a container or an interpreter, with the folders of whoever
did so; how a result is made again, the card says. Elsewhere a place is shown by its last name.
"""

import re
from collections.abc import Callable
from typing import Any

from espalier.contract.json_text import from_json, to_json
from espalier.errors import without_secrets

COMMAND = "command"
_PLACE = re.compile(r"(?<![\w/.:…~-])(?:~|file://)?/(?:[^/\s'\",;]+/)+")
"""Folders of an absolute path, wherever in a text it begins; an address is none."""


def portable(manifest: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The manifest, byte for byte where nothing in it is a machine's, and what was taken out of it.

    Args:
        manifest: a file of the contract, which has been read as one already.
    """
    stated = from_json(manifest)
    taken: list[str] = [COMMAND] if stated[COMMAND] else []
    kept = {**stated, COMMAND: []}
    shown = _each_text(kept, "", lambda text, where: _without_places(text, where, taken))
    if not taken:
        return manifest, ()
    return (to_json(shown, indent=1, ensure_ascii=False) + "\n").encode(), tuple(taken)


def _without_places(text: str, where: str, taken: list[str]) -> str:
    found = without_secrets(_PLACE.sub("…/", text))
    if found != text:
        taken.append(where)
    return found


def _each_text(value: Any, where: str, change: Callable[[str, str], str]) -> Any:
    """The same value with every text changed; `where` is the way to it, by names and dots."""
    if isinstance(value, str):
        return change(value, where)
    if isinstance(value, list):
        return [_each_text(each, where, change) for each in value]
    if isinstance(value, dict):
        return {
            name: _each_text(each, f"{where}.{name}".lstrip("."), change)
            for name, each in value.items()
        }
    return value
