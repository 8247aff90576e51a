"""The project's own commands, one after another, as a table of results needs them."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence

from espalier.contract.paths import ROOT


def run_all(wanted: Iterable[Sequence[str]], settings: Sequence[str]) -> int:
    """Run commands until one fails; its exit code, or 0.

    Args:
        wanted: the words of each.
        settings: words that all of them are given.
    """
    for command in wanted:
        print("make", *command, file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "espalier", *command, *settings],
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:
            return done.returncode
    return 0
