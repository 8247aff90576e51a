"""One maker at a time for an artifact; the kernel frees the lock of a maker that dies."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from espalier.errors import EnvironmentFailure


@contextmanager
def artifact_lock(path: Path, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file at `path`, beside which `<path>.holder` says who does.

    Raises:
        EnvironmentFailure: another holds it and `wait` is False.
    """
    holder = path.with_suffix(".holder")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = _describe(holder)
        if not wait:
            raise EnvironmentFailure(
                f"{path.stem} is being made by {who}; wait for it, or leave out WAIT=0."
            ) from None
        say(f"{path.stem} is being made by {who}; waiting for it.")
        lock.acquire()
    try:
        record = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        holder.write_text(json.dumps(record))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file at `path` if nobody else does, and say whether that is so."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock file at `path`; nothing is written."""
    if not path.exists():
        return False
    with lock_if_free(path) as free:
        return not free


def _describe(holder: Path) -> str:
    try:
        record = json.loads(holder.read_text())
        since = time.strftime("%H:%M:%S", time.localtime(record["since"]))
        return f"process {record['pid']} on {record['host']} since {since}"
    except (OSError, ValueError, KeyError):
        return "another process"
