"""Taylor's gradients a layer at a time beside a loop that keeps them all: seconds and memory.

`python -m benchmarks gradients --shape 1b`
"""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.process import GIB, run_worker
from benchmarks.workload import Workload, options_of

FLOAT32 = 4


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = options_of(
        "benchmarks gradients", __doc__, shape="tinyllama", layers=4, samples=10, length=64
    )
    work = Workload(parser, words)
    spec, shapes = work.spec("gradients"), work.shapes
    ours, plain = run_worker("ours", spec), run_worker("plain", spec)
    pairs = zip(json.loads(ours.printed), json.loads(plain.printed), strict=True)
    table = Table("", "seconds", "peak GiB", box=None)
    for name, cost in (("a layer at a time, all four forms", ours), ("all kept, one form", plain)):
        table.add_row(name, str(cost), f"{cost.memory / GIB:.2f}")
    layer = shapes.layer_parameters * FLOAT32 / GIB
    table.add_row("weights in float32", "", f"{shapes.parameters * FLOAT32 / GIB:.2f}")
    table.add_row("one layer", "", f"{layer:.2f}")
    console = Console(width=150)
    console.print(str(work))
    console.print(table)
    console.print(
        f"memory {plain.memory / ours.memory:.2f} to 1, importances differ by "
        f"{max(abs(mine / theirs - 1) for mine, theirs in pairs):.1e}"
    )
