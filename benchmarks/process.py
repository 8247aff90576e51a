"""What one worker process costs."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from espalier.contract.json_text import to_json

GIB = 1 << 30


@dataclass(frozen=True)
class Cost:
    """Of one process: wall and processor seconds, peak resident bytes, and what it printed."""

    seconds: float
    processor: float
    memory: int
    printed: str

    def __str__(self) -> str:
        return f"{self.seconds:.1f} ({self.processor:.0f} cpu)"


def run_worker(kind: str, spec: Mapping[str, Any]) -> Cost:
    """Run `python -m benchmarks.worker KIND SPEC` to its end."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:  # a pipe would fill while the other is read
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", kind, to_json(spec)],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        printed = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        said.seek(0)
        errors = said.read()
    if status:
        sys.exit(f"{kind} {spec['method']} failed:\n{errors[-2000:]}")
    processor = usage.ru_utime + usage.ru_stime
    return Cost(time.perf_counter() - began, processor, usage.ru_maxrss * 1024, printed)
