"""One process at a time in a run's folder: a stage whose host has died may work there yet.

The kernel's lock on a file says so, and ends with its holder. Where a file system has none, the
lease of whoever makes the artifact is all that keeps a second one out.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from espalier.contract.kernel_lock import try_lock
from espalier.errors import EnvironmentFailure

LOCK = "worker.lock"
WAIT_SECONDS = 30.0
"""How long a stage whose host has died may take to save and stop, before its successor gives up."""


@contextmanager
def sole_worker(folder: Path) -> Iterator[None]:
    """Work in a run's folder once no other process does.

    Raises:
        EnvironmentFailure: another one still works there.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    with (folder / LOCK).open("a") as file:
        while try_lock(file) is False:
            if time.monotonic() > deadline:
                raise EnvironmentFailure(
                    f"another process still works in {folder.parent.name}; stop it first."
                )
            time.sleep(0.2)
        yield


def has_worker(folder: Path) -> bool:
    """Whether a process is seen to work in a run's folder."""
    try:
        with (folder / LOCK).open("r+") as file:
            return try_lock(file) is False
    except OSError:
        return False


@contextmanager
def nobody_works(folder: Path) -> Iterator[bool]:
    """Keep workers out of a run's folder meanwhile; False: one is there, or that is not known."""
    try:
        file = (folder / LOCK).open("a")
    except FileNotFoundError:
        yield not folder.exists()
        return
    except OSError:
        yield False
        return
    with file:
        try:
            free = try_lock(file)
        except OSError:
            free = None
        yield free is True
