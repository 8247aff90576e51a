"""Processes that play several machines."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence

from espalier.contract.paths import ROOT
from tests.maxtext.test_image import OFFLINE

PATIENCE = 300
"""Seconds for which one may run."""


def run_together(machines: Iterable[tuple[Sequence[str], Mapping[str, str]]]) -> None:
    """Run `python -m` with these words and variables at once; none may fail."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env=os.environ | OFFLINE | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words, variables in machines
    ]
    try:
        for process in processes:
            _, told = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, told
    finally:
        for process in processes:
            process.kill()
