"""What passed already in the very state that the tree is in: CI keeps it with its other caches.

    python -m tests.green NAME PATTERN… -- COMMAND…

runs the command unless it passed before with the same content of the tracked files that match the
patterns, those of `git ls-files`. A record is written after success only. Without the variable
ESPALIER_CI_CACHE nothing is recorded and everything runs; with FRESH=1 everything runs too.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.paths import ROOT

VARIABLE = "ESPALIER_CI_CACHE"
INSTEAD = "FRESH=1 runs them all the same"


def tracked(*patterns: str) -> list[Path]:
    """The project's files that match, those that git was not told of yet included."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    names = subprocess.run(
        [*listing, *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in sorted(set(names.split("\0"))) if (ROOT / name).is_file()]


def state(files: Iterable[Path], *others: str) -> str:
    """What the files hold, and what else a result depends on; Python and the processor always."""
    digest = hashlib.sha256(repr((*others, platform.python_version(), _processor())).encode())
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(ROOT)}\0{content}\n".encode())
    return digest.hexdigest()


def recorded(name: str, state: str) -> dict[str, Any] | None:
    """What was recorded of a success in this state, if anything."""
    path = _record(name)
    if os.environ.get("FRESH") == "1" or path is None or not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    return record if record["state"] == state else None


def record(name: str, state: str, **details: Any) -> None:
    """Remember a success; the last one alone, so that records don't pile up."""
    path = _record(name)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"state": state, **details}) + "\n")


def _record(name: str) -> Path | None:
    cache = os.environ.get(VARIABLE)
    return Path(cache) / "green" / f"{name}.json" if cache else None


def _processor() -> str:
    """Its name and what it can do: sums may differ in their last bits between two."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def main(words: list[str]) -> int:
    """Exit code of the command, or 0 where it need not run."""
    name, *patterns = words[: words.index("--")]
    command = words[words.index("--") + 1 :]
    before = state(tracked(*patterns), *command)
    if recorded(name, before):
        print(f"{name}: nothing changed since they passed; {INSTEAD}", flush=True)
        return 0
    code = subprocess.run(command, check=False).returncode
    if code == 0:
        record(name, before)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
