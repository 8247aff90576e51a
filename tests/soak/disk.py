"""The file system of the soak's store: a small one of its own, where mounting one is allowed."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = "1g"


@contextmanager
def small_disk(folder: Path) -> Iterator["Disk | None"]:
    """A tmpfs at `folder` until the block ends; None where that takes rights that are not there."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Disk:
    """What fills up and is freed again, beside the store that lies on it."""

    def __init__(self, folder: Path) -> None:
        self.filler = folder / "filler"
        self.filled = 0

    def fill(self, left: int) -> None:
        """Leave so many bytes free."""
        self.filled += 1
        at = os.statvfs(self.filler.parent)
        with self.filler.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(at.f_bavail * at.f_bsize - left, 1))

    def free(self) -> None:
        """Give back what was taken."""
        self.filler.unlink(missing_ok=True)
