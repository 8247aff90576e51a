"""Slots that test sessions side by side share: as many tests run at once as there are slots.

Each image's tests are a session of pytest's of its own, since their packages differ. Sessions that
ran one after another would each end with idle cores; all at once they would crowd them.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

VARIABLE = "ESPALIER_TEST_SLOTS"
"""The folder of the slots, one file each; without it a test waits for nobody."""
POLL_SECONDS = 0.05


def make_slots(folder: Path, count: int) -> dict[str, str]:
    """The environment of sessions that share so many slots."""
    for number in range(count):
        (folder / str(number)).touch()
    return {VARIABLE: str(folder)}


@contextmanager
def slot() -> Iterator[None]:
    """Hold one of the slots; wait for one as long as all are taken.

    Meanwhile the environment names no slots: tests that this one starts are within its own.
    """
    folder = os.environ.pop(VARIABLE, None)
    if not folder:
        yield
        return
    files = [path.open("w") for path in sorted(Path(folder).iterdir())]
    try:
        while not any(_taken(file) for file in files):
            time.sleep(POLL_SECONDS)
        yield
    finally:
        for file in files:
            file.close()
        os.environ[VARIABLE] = folder


def _taken(file: IO[str]) -> bool:
    """The lock is this process's alone: no child keeps it, and it goes when the process ends."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
