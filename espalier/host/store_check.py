"""What a store's file system can do of what is relied on, seen by trying it."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from espalier.contract.kernel_lock import try_lock
from espalier.contract.lock import LEASE_SECONDS
from espalier.contract.measure import show_time
from espalier.host.file_system import FileSystem

COARSE_SECONDS = 2.0
"""What clocks of file systems may be off by for being read seldom, or kept in whole seconds."""


class Reach(Enum):
    """Who sees the kernel's lock on a file; the value is what that means."""

    ALONE = "work; no other machine uses this file system"
    ALL = "work, and other machines see them"
    HERE = "work, but other machines do not see them"
    UNKNOWN = "work; whether other machines see them is not known"
    NONE = "there are none"


@dataclass(frozen=True)
class StoreCheck:
    """A store's file system, as it is mounted and as it behaves.

    Attributes:
        unable: what it cannot do, with its own words.
        skew: seconds that its clock is ahead of this machine's.
    """

    disk: FileSystem
    locks: bool
    unable: dict[str, str]
    skew: float

    @classmethod
    def of(cls, store: Path) -> "StoreCheck":
        """Try it where the store is, or will be; nothing is left there.

        Raises:
            OSError: nothing can be written there.
        """
        place = next(path for path in (store, *store.absolute().parents) if path.is_dir())
        with tempfile.TemporaryDirectory(prefix=".espalier-doctor-", dir=place) as folder:
            scratch = Path(folder)
            unable = {name: why for name, act in TRIED.items() if (why := _fault(act, scratch))}
            return cls(FileSystem.of(place), _locks(scratch), unable, _skew(scratch))

    @property
    def reach(self) -> Reach:
        """Who sees its locks."""
        return _reach(self.disk) if self.locks else Reach.NONE

    def rows(self) -> dict[str, str]:
        """For `make doctor`."""
        return {
            "store's disk": f"{self.disk.kind or 'unknown'} at {self.disk.place}; {self._able()}; "
            f"{self._clock()}",
            "store's locks": self._locks(),
        }

    def _able(self) -> str:
        if not self.unable:
            return f"{', '.join(TRIED)} work"
        failed = ", ".join(f"{name} ({why})" for name, why in self.unable.items())
        return f"cannot do: {failed}; results may be lost in a power failure, choose another STORE="

    def _clock(self) -> str:
        if abs(self.skew) <= COARSE_SECONDS:
            return "its clock is this machine's"
        way = "ahead of" if self.skew > 0 else "behind"
        return (
            f"its clock is {show_time(abs(self.skew))} {way} this machine's, which the age that "
            "make gc goes by is off by"
        )

    def _locks(self) -> str:
        lease = (
            f"one maker at a time is kept by leases, and what a dead machine held is free after "
            f"{show_time(LEASE_SECONDS)}"
        )
        meaning = {
            Reach.ALONE: "one maker at a time is kept by them",
            Reach.ALL: "one maker at a time is kept by them and by leases",
            Reach.NONE: f"{lease}; a stage whose launcher died is not waited for",
        }
        return f"{self.reach.value}: {meaning.get(self.reach, lease)}"


def _reach(disk: FileSystem) -> Reach:
    """Who sees the locks of a file system that has some, by how it is mounted."""
    options = disk.options
    if not disk.shared:
        return Reach.ALONE
    if disk.kind in ("nfs", "nfs4"):
        here = {"nolock", "local_lock=all", "local_lock=flock"} & options
        return Reach.HERE if here else Reach.ALL
    if disk.kind == "lustre":
        return Reach.HERE if "localflock" in options else Reach.ALL
    if disk.kind in ("cifs", "smb3"):
        return Reach.HERE if {"nobrl", "forcemandatorylock"} & options else Reach.ALL
    return Reach.ALL if disk.kind in ("ceph", "ocfs2", "gfs2") else Reach.UNKNOWN


def _rename(scratch: Path) -> None:
    """A file over another, and a folder that is not empty."""
    for name in ("old", "new"):
        (scratch / name).write_text(name)
    (scratch / "new").replace(scratch / "old")
    if (scratch / "old").read_text() != "new":
        raise OSError("the old content is still there")
    (scratch / "folder").mkdir()
    (scratch / "folder" / "file").touch()
    (scratch / "folder").rename(scratch / "renamed")
    (scratch / "renamed" / "file").stat()


def _sync(scratch: Path) -> None:
    with (scratch / "synced").open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(scratch: Path) -> None:
    handle = os.open(scratch, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


TRIED: dict[str, Callable[[Path], None]] = {
    "rename": _rename,
    "fsync": _sync,
    "fsync of folders": _sync_folder,
}


def _fault(act: Callable[[Path], None], scratch: Path) -> str:
    try:
        act(scratch)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _locks(scratch: Path) -> bool:
    """Whether one who has the kernel's lock keeps another out."""
    with (scratch / "lock").open("w") as one, (scratch / "lock").open("w") as other:
        try:
            return try_lock(one) is True and try_lock(other) is False
        except OSError:
            return False


def _skew(scratch: Path) -> float:
    """How far the clock that stamps files is ahead, in seconds."""
    before = time.time()
    (scratch / "clock").write_text("x")
    stamped, after = (scratch / "clock").stat().st_mtime, time.time()
    return min(stamped - before, 0.0) or max(stamped - after, 0.0)
