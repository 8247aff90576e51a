"""What a container costs a stage: the same work as a bare Python process, by every runtime at hand.

`python -m benchmarks.overhead`
"""

import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from espalier.contract.discovery import stage_named
from espalier.contract.store import Store
from espalier.errors import EspalierError
from espalier.host.execution import Executor
from espalier.host.plan import Request
from espalier.host.runtimes.base import Runtime
from espalier.host.runtimes.choice import choose_runtime
from espalier.host.settings import Settings

REPEATS = 5


def seconds(runtime: Runtime) -> float:
    """Median wall seconds of `corpus`, host work (locks, hashes, publishing) included."""
    stage = stage_named("corpus")
    taken = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(store=Path(folder))
            executor = Executor(Store(settings.store), runtime, settings)
            began = time.perf_counter()
            executor.execute(Request(stage, stage.parameters(), {}, "pydoc"))
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    """Print the table."""
    bare = seconds(choose_runtime("local"))
    table = Table("runtime", "seconds", "over the bare process")
    table.add_row("local (bare process)", f"{bare:.2f}", "")
    for name in ("docker", "podman"):
        try:
            taken = seconds(choose_runtime(name))
        except EspalierError as error:
            table.add_row(name, "not run", str(error))
            continue
        table.add_row(name, f"{taken:.2f}", f"{taken - bare:+.2f} s")
    Console().print(table)


if __name__ == "__main__":
    main()
