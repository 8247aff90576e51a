"""Waiting for another process, with an end."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from espalier.contract.manifest import METRICS
from espalier.contract.paths import ROOT
from espalier.models.checkpoint.shards import JOURNAL
from tests.contract.command import command, quiet_environment

WORKER = ".worker\0"
"""In the command line of a rank, whatever it trains."""


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Until `holds()`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def wait_for(store: Path, pattern: str, process: subprocess.Popen[Any]) -> None:
    """Until the process has made a file that matches."""

    def made_it() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        return any(store.glob(pattern))

    wait_until(made_it, 120)


def interrupted(store: Path, words: Sequence[str], pattern: str) -> str:
    """What a command says that gets Ctrl-C once it has made a file that matches; it ends in 75."""
    process = started(store, words, pattern)
    process.send_signal(signal.SIGINT)
    return _said_at_its_end(process)


def struck(store: Path, words: Sequence[str], pattern: str) -> str:
    """What a command says whose stage gets SIGKILL once it has made a file; it ends in 75."""
    process = started(store, words, pattern)
    stages = working_on(store)
    assert stages
    for pid in stages:
        os.kill(pid, signal.SIGKILL)
    return _said_at_its_end(process)


def started(store: Path, words: Sequence[str], pattern: str) -> subprocess.Popen[str]:
    """A command that goes on, once it has made a file that matches."""
    process = subprocess.Popen(
        command(store, *words),
        cwd=ROOT,
        env=quiet_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(store, pattern, process)
    return process


def _said_at_its_end(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    return errors


def wait_for_layer(store: Path, layer: int, process: subprocess.Popen[Any]) -> None:
    """Until the process has put that layer of a checkpoint on the disk."""

    def written() -> bool:
        assert process.poll() is None, "the process ended early"
        return layer in layers_written(store)

    wait_until(written, 120)


def wait_for_steps(store: Path, steps: int, process: subprocess.Popen[str]) -> None:
    """Until the training of `run` has made so many steps."""

    def made() -> bool:
        found = list(store.glob(f"checkpoints/run.partial-*/{METRICS}"))
        assert process.poll() is None, process.stderr and process.stderr.read()
        return bool(found) and len(found[0].read_text().splitlines()) >= steps

    wait_until(made, 120)


def working_on(store: Path) -> list[int]:
    """The processes of stages, and of their ranks, whose command lines name this store."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().decode()
            except OSError:
                continue
            if str(store) in line and ("run_stage" in line or WORKER in line):
                found.append(int(entry.name))
    return found


def ranks_of(store: Path) -> list[int]:
    """Processes that are ranks of a run in this store."""
    found = []
    for pid in working_on(store):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        except OSError:
            continue
        if WORKER in line:
            found.append(pid)
    return sorted(found)


def layers_written(store: Path) -> set[int]:
    """The layers of unfinished checkpoints that are on the disk."""
    journals = store.glob(f"checkpoints/*.partial-*/{JOURNAL}")
    lines = [line for journal in journals for line in journal.read_text().splitlines()]
    return {int(name.split(".")[2]) for name in lines if name.startswith("model.layers.")}
