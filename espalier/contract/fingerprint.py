"""What identifies an input: its content."""

import hashlib
import json
from pathlib import Path

from espalier.contract.files import file_sha256, write_text
from espalier.contract.json_text import to_json
from espalier.contract.manifest import (
    MANIFEST,
    FileRecord,
    InputRecord,
    content_digest,
    content_files,
    read_manifest,
)
from espalier.errors import InputError

WORTH_CACHING = 64 << 20
"""Files smaller than this many bytes are hashed again each time."""


def identify(name: str, path: Path, cache: Path) -> InputRecord:
    """The identity of an input: from its manifest, or hashed where it has none.

    Hashes of large unpublished files are kept in `cache`, by path, size and time.

    Raises:
        InputError: the path does not exist, or links out of itself.
    """
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        return InputRecord(name=name, content=manifest.content, fingerprint=manifest.fingerprint)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a path, or a name on the store.")
    files = [path] if path.is_file() else list(content_files(path))
    base = path.parent if path.is_file() else path
    for file in files:
        if not file.resolve().is_relative_to(base.resolve()):
            raise InputError(
                f"{file} is a link to another folder, which a container cannot follow; "
                f"copy it into the store with make adopt FROM={path} NAME=…."
            )
    records = [
        FileRecord(
            path=file.suffix if file == path else file.relative_to(base).as_posix(),
            size=file.stat().st_size,
            sha256=cached_sha256(file, cache),
        )
        for file in files
    ]
    return InputRecord(name=name, content=content_digest(records))


def cached_sha256(file: Path, cache: Path) -> str:
    """A file's sha256; a large one's is kept in `cache`, by path, size and time."""
    status = file.stat()
    if status.st_size < WORTH_CACHING:
        return file_sha256(file)
    key = [str(file.resolve()), status.st_size, status.st_mtime_ns]
    entry = cache / f"{hashlib.sha256(to_json(key).encode()).hexdigest()}.json"
    try:
        return str(json.loads(entry.read_text())["sha256"])
    except (OSError, ValueError, KeyError):
        pass
    digest = file_sha256(file)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_text(entry, to_json({"sha256": digest}))
    except OSError:
        pass  # a read-only store only costs the time
    return digest
