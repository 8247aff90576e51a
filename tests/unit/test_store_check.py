"""What make doctor says of a store's file system."""

import errno
import fcntl
import os
import tempfile
import time
from pathlib import Path

import pytest

from espalier.host.cli import build
from espalier.host.file_system import FileSystem
from espalier.host.store_check import Reach, StoreCheck

ROOT_DISK = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard"


def mounted(tmp_path: Path, *lines: str) -> Path:
    table = tmp_path / "mountinfo"
    table.write_text("\n".join([ROOT_DISK, *lines]) + "\n")
    return table


def line(place: str, kind: str, options: str, of_mount: str = "rw") -> str:
    return f"31 27 0:50 / {place} {of_mount} shared:5 master:2 - {kind} server:/x {options}"


@pytest.mark.parametrize(
    ("lines", "path", "kind", "place"),
    [
        ([], "/data/store", "ext4", "/"),
        ([line("/data", "nfs4", "rw")], "/data/store", "nfs4", "/data"),
        ([line("/data", "nfs4", "rw")], "/database", "ext4", "/"),
        ([line("/a", "nfs4", "rw"), line("/a", "tmpfs", "rw")], "/a/b", "tmpfs", "/a"),
        ([line("/a/b", "tmpfs", "rw"), line("/a", "nfs4", "rw")], "/a/b/c", "tmpfs", "/a/b"),
        ([line(r"/my\040disk", "lustre", "rw")], "/my disk/s", "lustre", "/my disk"),
        (["nonsense", "1 2 - x"], "/data", "ext4", "/"),
    ],
)
def test_the_file_system_of_a_path(
    tmp_path: Path, lines: list[str], path: str, kind: str, place: str
) -> None:
    found = FileSystem.of(Path(path), mounted(tmp_path, *lines))
    assert (found.kind, found.place) == (kind, Path(place))


def test_where_no_table_is_nothing_is_known(tmp_path: Path) -> None:
    found = FileSystem.of(Path("/data"), tmp_path / "nowhere")
    assert found == FileSystem()
    assert found.shared


@pytest.mark.parametrize(
    ("kind", "options", "reach"),
    [
        ("ext4", "rw", Reach.ALONE),
        ("overlay", "rw", Reach.ALONE),
        ("nfs4", "rw,vers=4.2,local_lock=none", Reach.ALL),
        ("nfs", "rw,vers=3,local_lock=none", Reach.ALL),
        ("nfs", "rw,vers=3,nolock,local_lock=all", Reach.HERE),
        ("nfs4", "rw,local_lock=flock", Reach.HERE),
        ("nfs", "rw,local_lock=posix", Reach.ALL),
        ("lustre", "rw,flock", Reach.ALL),
        ("lustre", "rw,localflock", Reach.HERE),
        ("cifs", "rw,nobrl", Reach.HERE),
        ("ceph", "rw", Reach.ALL),
        ("beegfs", "rw", Reach.UNKNOWN),
        ("fuse.sshfs", "rw", Reach.UNKNOWN),
    ],
)
def test_who_sees_locks(tmp_path: Path, kind: str, options: str, reach: Reach) -> None:
    disk = FileSystem.of(Path("/data/x"), mounted(tmp_path, line("/data", kind, options)))
    check = StoreCheck(disk, locks=True, unable={}, skew=0)
    assert check.reach is reach
    told = check.rows()["store's locks"]
    assert told.startswith(reach.value)
    assert ("leases" in told) == disk.shared
    assert StoreCheck(disk, locks=False, unable={}, skew=0).reach is Reach.NONE


def test_a_disk_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileSystem, "of", lambda path: FileSystem("ext4"))
    check = StoreCheck.of(tmp_path / "store" / "that" / "is not there yet")
    assert check == StoreCheck(FileSystem("ext4"), locks=True, unable={}, skew=0)
    assert check.rows() == {
        "store's disk": "ext4 at /; rename, fsync, fsync of folders work; its clock is this "
        "machine's",
        "store's locks": "work; no other machine uses this file system: one maker at a time is "
        "kept by them",
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*given: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    told = StoreCheck.of(tmp_path).rows()["store's locks"]
    assert told.startswith("there are none: one maker at a time is kept by leases")
    assert "free after 2 min" in told


def test_locks_that_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *given: None)
    assert StoreCheck.of(tmp_path).reach is Reach.NONE


def test_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(Path, "rename", refuse)
    assert StoreCheck.of(tmp_path).rows()["store's disk"].split("; ")[1:] == [
        "cannot do: rename (Invalid argument), fsync (Invalid argument), fsync of folders "
        "(Invalid argument)",
        "results may be lost in a power failure, choose another STORE=",
        "its clock is this machine's",
    ]


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (600, "its clock is 10 min ahead of this machine's"),
        (-7200, "its clock is 2.0 h behind this machine's"),
        (1, "its clock is this machine's"),
    ],
)
def test_a_clock_that_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, says: str
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - seconds)
    assert says in StoreCheck.of(tmp_path).rows()["store's disk"]


def test_a_store_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **named: object) -> str:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    (told,) = build._store_rows(tmp_path).values()
    assert told == "cannot be written (Read-only file system); choose another STORE="
