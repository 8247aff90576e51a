"""Runs the command line as a user's shell would, with stages in this very environment."""

import os
import subprocess
import sys
from pathlib import Path

from espalier.contract.files import file_sha256
from espalier.contract.manifest import MANIFEST, METRICS, TRACKERS
from espalier.contract.paths import ROOT
from espalier.contract.threads import THREADS, thread_variables
from tests.warm.interpreters import WIDE, warm_up, warmed

TIMES = (MANIFEST, METRICS)
"""Files in which equal runs differ."""


def espalier(
    store: Path, *words: str, environment: dict[str, str] | None = None, cold: bool = False
) -> subprocess.CompletedProcess[str]:
    """`python -m espalier WORDS RUNTIME=inside STORE=store`, its output captured."""
    return subprocess.run(
        command(store, *words, cold=cold),
        cwd=ROOT,
        env=quiet_environment() | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


def command(store: Path, *words: str, cold: bool = False) -> list[str]:
    """The words of that command; a RUNTIME among them wins.

    A warm interpreter runs it, and the stages that it starts, unless `cold` asks for new ones,
    which import everything again and hash in another order.
    """
    runtime = () if any(word.startswith("RUNTIME=") for word in words) else ("RUNTIME=inside",)
    words = ("-m", "espalier", *words, *runtime, f"STORE={store}")
    if cold:
        return [sys.executable, *words]
    warm_up(**{THREADS: "1"}, **thread_variables(1))
    return warmed([sys.executable, *words])


def quiet_environment() -> dict[str, str]:
    """The caller's environment, on one thread, since tests run in parallel."""
    return {**os.environ, "THREADS": "1", "PYTHONPATH": str(ROOT), **WIDE}


def refused(done: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    """The command ended in `code` with one sentence that says `says`, and no traceback."""
    sentences = [line for line in done.stderr.splitlines() if line.startswith("espalier: ")]
    assert done.returncode == code, done.stderr
    assert len(sentences) == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    for text in says:
        assert text in sentences[0]


def tree(directory: Path) -> dict[str, str]:
    """The sha256 of every file below a directory, but for the notes of locks and hashes."""
    return {
        path.relative_to(directory).as_posix(): file_sha256(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.relative_to(directory).parts[0] not in (".locks", "cache")
    }


def without_times(files: dict[str, str]) -> dict[str, str]:
    """Those of `tree` that equal runs have equal."""
    return {
        name: digest
        for name, digest in files.items()
        if not name.endswith(TIMES) and TRACKERS not in Path(name).parts
    }


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The names of the files that two trees do not have alike, for a failure to tell."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
