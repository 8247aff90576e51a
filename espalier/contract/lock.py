"""One maker at a time for an artifact, on this machine and on others that share the store.

Two locks are held. The kernel's ends with its holder, at once; but some file systems have none, or
one that other machines do not see. The lease is a file that its holder renews: whoever has seen it
unchanged for LEASE_SECONDS by a clock of its own takes it over, and so does whoever finds its
holder dead on the same machine.
"""

import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, LeaseCompromise, SoftFileLease, Timeout

from espalier.contract.json_text import to_json
from espalier.errors import EnvironmentFailure

LEASE_SECONDS = 120.0
"""Longer than a network file system may show another machine's file as it was."""
RENEWED_SECONDS = 20.0
HALF_MADE_SECONDS = 10.0
"""Longer than the holder of a new lease takes to write into it; a full disk or a power cut leaves
one empty, of which the library would believe that it is held for ever."""
FOR_ALL = 0o666
"""Mode of lock files: others who may write the store may make what lies there anew."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""How file systems say that they have no locks."""
NOT_OURS = (errno.EACCES, errno.EPERM)
"""Another user's lock file, of an older version: its lease still says who works."""


@contextmanager
def artifact_lock(path: Path, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file at `path`, beside which `<path>.holder` says who does.

    Raises:
        EnvironmentFailure: another holds it and `wait` is False, or nothing can be locked there.
    """
    holder = path.with_suffix(".holder")
    with ExitStack() as held:
        try:
            _hold(path, held, timeout=0)
        except Timeout:
            who = _describe(holder)
            if not wait:
                raise EnvironmentFailure(
                    f"{path.stem} is being made by {who}; wait for it, or leave out WAIT=0."
                ) from None
            say(f"{path.stem} is being made by {who}; waiting for it.")
            while not _held_within(HALF_MADE_SECONDS, path, held):
                pass
        try:
            record = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
            holder.write_text(to_json(record))
            yield
        finally:
            holder.unlink(missing_ok=True)


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file at `path` if nobody else does, and say whether that is so.

    A lease that seems to be nobody's any more is watched for as long as that takes to know.
    """
    with ExitStack() as held:
        try:
            _hold(path, held, timeout=2 * LEASE_SECONDS if _seems_left(path) else 0)
        except Timeout:
            yield False
            return
        yield True


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file at `path`; nothing is written where there is none."""
    if not path.exists() and not lease_of(path).exists():
        return False
    with lock_if_free(path) as free:
        return not free


def lease_of(path: Path) -> Path:
    """The lease beside a lock file."""
    return path.with_suffix(".lease")


def _held_within(seconds: float, path: Path, held: ExitStack) -> bool:
    try:
        _hold(path, held, timeout=seconds)
    except Timeout:
        return False
    return True


def _hold(path: Path, held: ExitStack, timeout: float) -> None:
    """Take both locks, the kernel's first where there is one.

    Raises:
        Timeout: another holds one of them.
        EnvironmentFailure: files cannot be made there.
    """
    with ExitStack() as taken:
        try:
            taken.enter_context(FileLock(path, timeout=timeout, mode=FOR_ALL))
        except OSError as error:
            if error.errno not in (*NO_LOCKS, *NOT_OURS):
                raise
        _remove_half_made(path)
        lease = SoftFileLease(
            lease_of(path),
            timeout=timeout,
            mode=FOR_ALL,
            lease_duration=LEASE_SECONDS,
            heartbeat_interval=RENEWED_SECONDS,
            on_compromise=_stop,
        )
        try:
            taken.enter_context(lease)
        except OSError as error:
            if isinstance(error, Timeout):
                raise
            raise EnvironmentFailure(
                f"{path.parent} cannot hold locks ({error.strerror}); make it yours to write, or "
                "choose another store with STORE=."
            ) from None
        held.enter_context(taken.pop_all())


def _remove_half_made(path: Path) -> None:
    """Remove a lease that its holder did not come to write into."""
    lease = lease_of(path)
    with suppress(OSError):
        if lease.stat().st_size == 0 and _unchanged_for(path) > HALF_MADE_SECONDS:
            lease.unlink()


def _seems_left(path: Path) -> bool:
    """Whether a lease has not been renewed for its time."""
    return _unchanged_for(path) > LEASE_SECONDS


def _unchanged_for(path: Path) -> float:
    """Seconds since a lease was renewed, by the file system's own clock; 0 where there is none."""
    lease, probe = lease_of(path), path.with_suffix(f".clock-{os.getpid()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - lease.stat().st_mtime
    except OSError:
        return 0
    finally:
        probe.unlink(missing_ok=True)


def _stop(lost: LeaseCompromise) -> None:
    """Nothing more is done under a lock that is another's: what has been saved is gone on with."""
    print(  # noqa: T201
        f"espalier: another machine may have taken {Path(lost.lock_file).stem} over, since this "
        f"one could not renew its lease ({lost.reason}); stopping here.",
        file=sys.stderr,
        flush=True,
    )
    os.kill(os.getpid(), signal.SIGTERM)


def _describe(holder: Path) -> str:
    try:
        record = json.loads(holder.read_text())
        since = time.strftime("%H:%M:%S", time.localtime(record["since"]))
        return f"process {record['pid']} on {record['host']} since {since}"
    except (OSError, ValueError, KeyError):
        return "another process"
