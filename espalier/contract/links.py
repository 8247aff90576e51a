"""Links in what a stage is given: followed inside of it alone, since what they lead to is copied.

A container could not follow those that lead out, and on the host they would lead to whatever the
caller may read.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from espalier.contract.files import replacing
from espalier.errors import InputError

COPIED_AT_ONCE = 16 << 20
NO_LINK = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


def leading_out(directory: Path) -> Iterator[Path]:
    """What in a directory is a link to something elsewhere, or to nothing."""
    root = directory.resolve()
    for place, folders, files in os.walk(directory):
        for name in sorted((*folders, *files)):
            path = Path(place, name)
            if path.is_symlink() and not _ends_below(path, root):
                yield path


def require_contained(path: Path) -> None:
    """Refuse a directory that holds links out of itself.

    Raises:
        InputError: naming the first, and where it leads.
    """
    if (link := next(leading_out(path), None)) is not None:
        raise InputError(
            f"{link} is a link to {link.readlink()}, out of {path}, which is not followed; put "
            "the file itself in its place (of a snapshot in the hub's cache, make adopt "
            f"FROM={path} NAME=… does)."
        )


@contextmanager
def opened_below(root: Path, path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file below `root`, to which links may have led.

    Nothing is followed while it is opened: what has become a link since is refused.

    Raises:
        InputError: it leads out of `root`, or to what is no file.
    """
    base = root.resolve()
    place = path.resolve()
    if not place.is_relative_to(base):
        raise InputError(f"{path} leads to {place}, out of {root}, which is not followed.")
    try:
        descriptor = _opened(base, place.relative_to(base).parts)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"{path} is no file; take it away.")
        yield file


def copy_below(root: Path, path: Path, target: Path) -> None:
    """Copy a file as `opened_below` opens it; the copy is there whole or not at all.

    Raises:
        InputError: as there.
        EnvironmentFailure: the disk is full or cannot be written.
    """
    with (
        opened_below(root, path) as source,
        replacing(target) as temporary,
        temporary.open("wb") as copy,
    ):
        shutil.copyfileobj(source, copy, COPIED_AT_ONCE)


def _opened(base: Path, parts: tuple[str, ...]) -> int:
    """A descriptor of the last of `parts`, each opened in the one before."""
    *folders, name = parts or ("",)
    at = os.open(base, NO_LINK | os.O_DIRECTORY)
    try:
        for folder in folders:
            below = os.open(folder, NO_LINK | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, NO_LINK | os.O_NONBLOCK, dir_fd=at)  # a pipe would be waited for
    finally:
        os.close(at)


def _ends_below(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # it leads to nothing, or to itself
        return False
