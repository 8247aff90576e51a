"""Two machines on one store whose file system has no locks, or hides each one's from the other."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from espalier.contract import lock as subject
from espalier.contract.lock import artifact_lock, is_held, lease_of, lock_if_free
from espalier.errors import EnvironmentFailure
from tests.contract.waiting import wait_until

HOLD = """
import errno, fcntl, sys, time
from pathlib import Path
from espalier.contract import lock
lock.LEASE_SECONDS, lock.RENEWED_SECONDS = 2.0, 0.2
def flock(*given):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
with lock.artifact_lock(Path(sys.argv[1]), True, print):
    Path(sys.argv[2]).touch()
    time.sleep(60)
"""
OTHER_HOST = ["unshare", "--uts", "sh", "-c", 'hostname another && exec "$@"', "sh"]


def _other_hosts() -> bool:
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*OTHER_HOST, "true"], check=False, capture_output=True).returncode == 0


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(subject, "RENEWED_SECONDS", 0.2)


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has none."""

    def flock(*given: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


@contextmanager
def held_by(path: Path, *before: str) -> Iterator[subprocess.Popen[str]]:
    up = path.with_suffix(".up")
    process = subprocess.Popen(
        [*before, sys.executable, "-c", HOLD, str(path), str(up)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(up.exists)
        yield process
    finally:
        process.kill()
        process.wait()


def take(path: Path) -> None:
    with artifact_lock(path, wait=False, say=print):
        pass


@pytest.mark.usefixtures("without_locks")
def test_the_lease_alone_keeps_a_second_one_out(tmp_path: Path) -> None:
    path = tmp_path / "m.lock"
    with artifact_lock(path, wait=True, say=print):
        with lock_if_free(path) as free:
            assert not free
        with pytest.raises(
            EnvironmentFailure, match=f"m is being made by process {os.getpid()} on"
        ):
            take(path)
    assert not is_held(path)
    take(path)


@pytest.mark.usefixtures("without_locks")
@pytest.mark.skipif(not _other_hosts(), reason="no other host can be played here")
def test_another_hosts_lease_is_respected_while_it_is_renewed(tmp_path: Path) -> None:
    path = tmp_path / "m.lock"
    with held_by(path, *OTHER_HOST) as process:
        with pytest.raises(EnvironmentFailure, match=r"m is being made by process \d+ on another"):
            take(path)
        time.sleep(2 * subject.LEASE_SECONDS)  # renewed meanwhile
        assert is_held(path)
        process.kill()
        process.wait()
        assert lease_of(path).exists()
        began = time.monotonic()
        with artifact_lock(path, wait=True, say=print):
            assert time.monotonic() - began < 60
        assert not is_held(path)


@pytest.mark.usefixtures("without_locks")
@pytest.mark.skipif(not _other_hosts(), reason="no other host can be played here")
def test_a_lease_that_was_left_is_known_to_be_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "m.lock"
    with held_by(path, *OTHER_HOST) as process:
        process.kill()
        process.wait()
    wait_until(lambda: subject._seems_left(path))
    with lock_if_free(path) as free:
        assert free


@pytest.mark.usefixtures("without_locks")
def test_a_holder_that_died_on_this_machine_is_followed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.lock"
    with held_by(path) as process:
        assert is_held(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        take(path)


def test_whoever_has_lost_its_lease_stops(tmp_path: Path) -> None:
    path = tmp_path / "m.lock"
    with held_by(path) as process:
        lease_of(path).unlink()
        _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert "another machine may have taken m over" in said


def test_another_users_lock_file_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.lock"
    as_it_is = os.open

    def refuse(name: os.PathLike[str] | str, *given: int, **named: int) -> int:
        if str(name) == str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return as_it_is(name, *given, **named)

    monkeypatch.setattr(os, "open", refuse)
    with artifact_lock(path, wait=False, say=print), lock_if_free(path) as free:
        assert not free


def test_a_folder_that_cannot_be_written_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, **named: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(EnvironmentFailure, match="cannot hold locks"):
        take(tmp_path / "m.lock")


def test_an_empty_lease_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a full disk leaves it, or a power cut: nobody is known to hold it, and none does."""
    monkeypatch.setattr(subject, "HALF_MADE_SECONDS", 0.2)
    path, said = tmp_path / "x.lock", list[str]()
    lease_of(path).touch()
    with artifact_lock(path, True, said.append):
        assert lease_of(path).stat().st_size
    assert len(said) < 2
