"""Names, sizes and hashes of a bucket's objects, before any of them becomes a local file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from espalier.contract.files import file_sha256
from espalier.errors import InputError

LINE = re.compile(r"([0-9a-f]{64}) (\d{1,15}) (.+)")


@dataclass(frozen=True)
class Listed:
    """A file as the worker that made it has recorded it."""

    sha256: str
    size: int


def parse_list(text: str, where: str) -> Mapping[str, Listed]:
    """A line for each file: its sha256, its size in bytes, and its name.

    Raises:
        InputError: it is no such list.
    """
    listed = {}
    for line in text.splitlines():
        found = LINE.fullmatch(line)
        if found is None or found[3] in listed:
            raise InputError(f"{where} is no list of files; FORCE=1 makes the result anew.")
        require_name(found[3], where)
        listed[found[3]] = Listed(found[1], int(found[2]))
    return listed


def require_name(name: str, where: str) -> None:
    """Refuse a name that does not stay below the directory that it is joined to.

    Raises:
        InputError: it does not.
    """
    parts = name.split("/")
    odd = "\\" in name or not name.isprintable() or PurePosixPath(name).is_absolute()
    if odd or any(part in ("", ".", "..") for part in parts):
        raise InputError(
            f"{where} holds {name!r}, which is no name of a file below it; somebody else has "
            "written there: remove it, or give another BUCKET."
        )


def require_same(file: Path, listed: Listed, where: str) -> None:
    """Refuse, and remove, a file that is not what was recorded.

    Raises:
        InputError: it is not.
    """
    if file.stat().st_size == listed.size and file_sha256(file) == listed.sha256:
        return
    file.unlink()
    raise InputError(
        f"{where} is not what the worker that made it has recorded (its sha256 differs); run the "
        "same command again, or with FORCE=1 to make it anew."
    )
