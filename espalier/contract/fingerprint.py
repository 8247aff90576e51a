"""What identifies an input: its content."""

import hashlib
import json
from pathlib import Path

from espalier.contract.files import file_sha256, write_text
from espalier.contract.json_text import to_json
from espalier.contract.links import require_contained
from espalier.contract.manifest import (
    MANIFEST,
    FileRecord,
    InputRecord,
    changes,
    content_digest,
    content_files,
    read_manifest,
)
from espalier.errors import InputError

WORTH_CACHING = 64 << 20
"""Files smaller than this many bytes are hashed again each time."""


def identify(name: str, path: Path, cache: Path, *, published: bool = False) -> InputRecord:
    """The identity of an input: its files hashed, or what was recorded when it was published.

    Hashes of large files are kept in `cache`, by path, size and time.

    Args:
        name: what it is called.
        path: a file or a directory.
        cache: a folder.
        published: whether it lies where its store has published it. A manifest that lies elsewhere
            is compared with the files, since anybody may have written it.

    Raises:
        InputError: the path does not exist, links out of itself, or is not what its manifest says.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give a path, or a name on the store.")
    if path.is_file():
        if path.resolve().parent != path.parent.resolve():
            raise InputError(
                f"{path} is a link to {path.resolve()}, which is not followed; give that itself."
            )
        return InputRecord(name=name, content=content_digest([_record(path, path.suffix, cache)]))
    require_contained(path)
    manifest = read_manifest(path) if (path / MANIFEST).is_file() else None
    if manifest is None:
        return InputRecord(name=name, content=_digest(path, cache))
    if published:
        if (wrong := next(changes(path, manifest), None)) is not None:
            raise InputError(f"{wrong}; put it back, or make {name} again with FORCE=1.")
    elif _digest(path, cache) != manifest.content:
        raise InputError(
            f"{path / MANIFEST} is not of the files beside it, which have changed or never were "
            "published; take it away if they are as you want them."
        )
    return InputRecord(name=name, content=manifest.content, fingerprint=manifest.fingerprint)


def _digest(directory: Path, cache: Path) -> str:
    """The digest over a directory's files, hashed now."""
    files = content_files(directory)
    return content_digest(
        [_record(file, file.relative_to(directory).as_posix(), cache) for file in files]
    )


def _record(file: Path, called: str, cache: Path) -> FileRecord:
    return FileRecord(path=called, size=file.stat().st_size, sha256=cached_sha256(file, cache))


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
