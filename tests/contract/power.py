"""Ends a process between two calls that change files, and tells what of them was on the disk.

Calls are counted where Python makes them. What a power cut leaves is told by inode: a file's bytes
and a directory's names as they were when last synced.
"""

import io
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

ENDED = 137
"""As a killed process ends."""
CHANGING = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "utime", "chmod", "truncate")
Names = dict[str, tuple[int, bool]]
"""Of entries, to their inodes and whether they are folders."""


class Disk:
    """What is surely on the disk below `root`: at first all that is there.

    Attributes:
        files: bytes by inode.
        folders: their entries by inode.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.stat().st_ino
        self.files: dict[int, bytes] = {}
        self.folders: dict[int, Names] = {}
        for folder, _, names in os.walk(root):
            self.sync(Path(folder))
            for name in names:
                self.sync(Path(folder) / name)

    def sync(self, path: Path) -> None:
        """Take what is there now."""
        number = path.stat().st_ino
        if path.is_dir():
            self.folders[number] = {
                entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(path)
            }
        else:
            self.files[number] = path.read_bytes()

    def leave(self, root: Path) -> None:
        """Make at `root` what a power cut leaves: what was not synced was never there, or empty."""
        self._leave_folder(self.root, root)

    def _leave_folder(self, number: int, path: Path) -> None:
        path.mkdir()
        for name, (inner, is_folder) in self.folders.get(number, {}).items():
            if is_folder:
                self._leave_folder(inner, path / name)
            else:
                (path / name).write_bytes(self.files.get(inner, b""))

    def empty_unsynced(self, root: Path) -> None:
        """Take from the files below `root` what was not synced, and leave their names."""
        for path in (p for p in root.rglob("*") if p.is_file()):
            if path.read_bytes() != self.files.get(path.stat().st_ino):
                path.write_bytes(b"")


def until_call(number: int, root: Path, work: Callable[[], Any], account: Path) -> bool:
    """Do the work in another process, which ends before its call of that number.

    Args:
        number: from 0 of the calls that change or sync files, by all code.
        root: of the files that matter.
        work: what to do.
        account: a file for the `Disk` at the end.

    Returns:
        whether it ended there, and not since the work was done.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with _counted(number, Disk(root), account):
                work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, ENDED), code
    return code == ENDED


def account_of(file: Path) -> Disk:
    """What the ended process has told."""
    disk = pickle.loads(file.read_bytes())
    assert isinstance(disk, Disk)
    return disk


@contextmanager
def _counted(number: int, disk: Disk, account: Path) -> Iterator[None]:
    left, kept = number, []
    stock_open, stock_fsync = io.open, os.fsync

    def count() -> None:
        nonlocal left
        if left == 0:
            with stock_open(account, "wb") as file:
                pickle.dump(disk, file)
            os._exit(ENDED)
        left -= 1

    def changing(stock: Callable[..., Any], takes: bool) -> Callable[..., Any]:
        def changed(path: Any, *given: Any, **named: Any) -> Any:
            count()
            if takes:  # an inode that is open has no successor of its number
                kept.append(_held(path, named.get("dir_fd")))
            return stock(path, *given, **named)

        return changed

    def fsync(handle: Any) -> None:
        count()
        number = handle if isinstance(handle, int) else handle.fileno()
        stock_fsync(number)
        disk.sync(Path(f"/proc/self/fd/{number}").readlink())

    def opened(path: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
        if set(mode) & set("wax+"):
            count()
        file = stock_open(path, mode, *given, **named)
        if set(mode) & set("wax+"):
            count()  # there, and empty
        return file

    with mock.patch.multiple(
        os,
        fsync=fsync,
        **{name: changing(getattr(os, name), name in ("unlink", "remove", "rmdir"))
           for name in CHANGING},
    ), mock.patch("io.open", opened), mock.patch("builtins.open", opened):  # fmt: skip
        yield


def _held(path: Any, folder: int | None) -> int | None:
    try:
        return os.open(path, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        return None


def copied(root: Path, target: Path) -> Path:
    """A copy of a tree, with the times of its files."""
    return Path(shutil.copytree(root, target, symlinks=True))
