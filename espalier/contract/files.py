"""Files that are there whole or not at all, and their hashes."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from espalier.errors import EnvironmentFailure

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@contextmanager
def replacing(target: Path, otherwise: str = "choose another store") -> Iterator[Path]:
    """A name beside `target` to write under; synced, it takes `target`'s place at the end.

    A crash leaves the old file or the new one; any failure removes what was written. `otherwise`
    is what a user can do about a place that cannot be written, beside freeing it.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    temporary = target.with_name(f".{target.name}.partial")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # Whoever writes may read too: only what is about this file is said to be.
        if error.errno not in UNWRITABLE and error.filename != str(temporary):
            raise
        raise EnvironmentFailure(
            f"{target} cannot be written: {error.strerror}; free the space or {otherwise}."
        ) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
