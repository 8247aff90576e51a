"""Files that are there whole or not at all, on the disk and not in memory alone; their hashes."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from espalier.errors import EnvironmentFailure

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
NOT_SYNCED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES)
"""How file systems that keep directories by other means answer a request to sync one."""


@contextmanager
def replacing(
    target: Path, remedy: str = "free the space or choose another store"
) -> Iterator[Path]:
    """A name beside `target` to write under; synced, it takes `target`'s place at the end.

    A crash leaves the old file or the new one; any failure removes what was written.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    temporary = target.with_name(f".{target.name}.partial")
    try:
        yield temporary
        _sync_file(temporary)
        temporary.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # Whoever writes may read too: only what is about this file is said to be.
        if error.errno not in UNWRITABLE and error.filename != str(temporary):
            raise
        raise EnvironmentFailure(
            f"{target} cannot be written: {error.strerror}; {remedy}."
        ) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_temporary(directory: Path) -> None:
    """Remove what `replacing` has left below a directory when a process was killed in it."""
    for path in directory.rglob(".*.partial"):
        if path.is_file():
            path.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a small file.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Replace a small UTF-8 file, as `write_bytes`."""
    write_bytes(path, content.encode())


def sync_directory(directory: Path) -> None:
    """Bring a directory's names to the disk; without it a power cut may take back a rename."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SYNCED:
            raise
    finally:
        os.close(handle)


def sync_tree(directory: Path) -> None:
    """Bring all files and directories below `directory`, and itself, to the disk, inner ones first.

    Raises:
        EnvironmentFailure: the disk does not take them.
    """
    try:
        for folder, _, names in os.walk(directory, topdown=False):
            for path in (Path(folder) / name for name in names):
                if not path.is_symlink():
                    _sync_file(path)
            sync_directory(Path(folder))
    except OSError as error:
        raise EnvironmentFailure(
            f"{error.filename or directory} cannot be written: {error.strerror}; see to the disk, "
            "or choose another store."
        ) from None


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
