"""Whose a folder of unfinished work is: what another user may have written is not gone on with.

Parts of it are pickles, and all of it decides a result. Who "we" are is asked of the file system:
behind a network, a container's or a cloud's mount, what we make may belong to another number than
ours, and modes may not be kept.
"""

import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.manifest import RUN_FOLDER
from espalier.errors import EnvironmentFailure

PRIVATE = 0o700
OTHERS = 0o077
OTHERS_WRITE = 0o022


@dataclass(frozen=True)
class Ours:
    """What becomes of a folder that we make for ourselves alone.

    Attributes:
        owner: the number of the user it belongs to.
        keeps_modes: whether it is ours alone then.
    """

    owner: int
    keeps_modes: bool

    @classmethod
    def in_(cls, folder: Path) -> "Ours":
        """As one among the notes of a run in `folder`, which is removed again, or with them.

        Raises:
            OSError: we can make none there.
        """
        notes = folder / RUN_FOLDER
        notes.mkdir(exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=notes))  # PRIVATE, whatever the umask
        try:
            status = made.stat()
        finally:
            made.rmdir()
        return cls(status.st_uid, not status.st_mode & OTHERS)


def make_private(folder: Path) -> None:
    """Make a folder for us alone, in one that is there; one of before is checked and closed.

    Raises:
        EnvironmentFailure: it is not ours, or others may have written there.
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(PRIVATE)
    except FileExistsError:
        require_own(folder)
    if folder.stat().st_mode & OTHERS:
        with suppress(OSError):  # a file system without modes
            folder.chmod(PRIVATE)


def require_own(folder: Path) -> None:
    """Refuse a folder of work that anybody else has, or may have, put something into.

    Of one that nobody else can enter, only itself is looked at.

    Raises:
        EnvironmentFailure: saying whose it is, or who may write there, and what to do.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise _refused(folder, folder, "is no folder")
    try:
        ours = Ours.in_(folder)
    except PermissionError:
        raise _refused(folder, folder, f"belongs to {_called(status.st_uid)}") from None
    except OSError as error:
        raise EnvironmentFailure(
            f"{folder} cannot be written: {error.strerror}; free the space or choose another store."
        ) from None
    if status.st_uid != ours.owner:
        raise _refused(folder, folder, f"belongs to {_called(status.st_uid)}")
    if not status.st_mode & OTHERS:
        return
    for path in _below(folder):
        try:
            found = path.lstat()
        except FileNotFoundError:  # a worker that is still ending has removed it
            continue
        if found.st_uid != ours.owner:
            raise _refused(folder, path, f"belongs to {_called(found.st_uid)}")
        if ours.keeps_modes and not path.is_symlink() and found.st_mode & OTHERS_WRITE:
            mode = stat.S_IMODE(found.st_mode)
            raise _refused(
                folder,
                path,
                f"may be written by others (its mode is {mode:o})",
                f"if none of them has, chmod 700 {folder} lets you go on",
            )


def _refused(
    folder: Path, path: Path, why: str, otherwise: str = "let them give the command"
) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{path} {why}, and unfinished work is gone on with by the user alone who began it; "
        f"{otherwise}, or give the result another NAME, or remove {folder}."
    )


def _below(folder: Path) -> Iterator[Path]:
    yield folder
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))


def _called(number: int) -> str:
    """A user's name, where the machine knows one."""
    try:
        return f"{pwd.getpwuid(number).pw_name} (uid {number})"
    except KeyError:
        return f"uid {number}"
