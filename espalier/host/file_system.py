"""Which file system a path is on, and whether other machines may use it too."""

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
OWN = frozenset(
    (
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "bcachefs", "reiserfs"),
        *("tmpfs", "ramfs", "overlay", "aufs", "vfat", "exfat", "ntfs3", "fuseblk", "squashfs"),
    )
)
"""Kinds that no other machine uses at the same time; of any other that is possible."""


@dataclass(frozen=True)
class FileSystem:
    """A file system as it is mounted.

    Attributes:
        kind: as the kernel names it, such as `ext4` or `nfs4`; empty where that is not known.
        place: where it is mounted.
        options: of the mount and of the file system.
    """

    kind: str = ""
    place: Path = Path("/")
    options: frozenset[str] = frozenset()

    @classmethod
    def of(cls, path: Path, mounts: Path = MOUNTS) -> "FileSystem":
        """The one that `path` is on, or will be."""
        try:
            lines = mounts.read_text().splitlines()
        except OSError:  # not Linux
            return cls()
        resolved, found = path.resolve(), cls()
        for line in lines:
            one = cls._parsed(line)
            # Of several on one another the last is the one on top.
            if one and resolved.is_relative_to(one.place) and _depth(one) >= _depth(found):
                found = one
        return found

    @property
    def shared(self) -> bool:
        """Whether another machine may use it meanwhile, unseen by this one for a while."""
        return self.kind not in OWN

    @classmethod
    def _parsed(cls, line: str) -> "FileSystem | None":
        """`36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`."""
        mount, _, kind = line.partition(" - ")
        fields, rest = mount.split(), kind.split()
        if len(fields) < 6 or not rest:
            return None
        options = {*fields[5].split(","), *(rest[2].split(",") if len(rest) > 2 else ())}
        return cls(rest[0], Path(_plain(fields[4])), frozenset(options))


def _depth(one: FileSystem) -> int:
    return len(one.place.parts)


def _plain(text: str) -> str:
    """A path without the kernel's octal escapes, which blanks have."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
