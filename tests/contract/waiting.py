"""Waiting for another process, with an end."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Until `holds()`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def wait_for(store: Path, pattern: str, process: subprocess.Popen[Any]) -> None:
    """Until the process has made a file that matches."""

    def made_it() -> bool:
        assert process.poll() is None, "the process ended early"
        return any(store.glob(pattern))

    wait_until(made_it, 120)
