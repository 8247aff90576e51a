"""SliceGPT a layer at a time beside a plain loop over the whole model: seconds and memory.

`python -m benchmarks slicing --layers 4`
"""

import json
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.process import GIB, run_worker
from benchmarks.workload import Workload, options_of


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = options_of(
        "benchmarks slicing", __doc__, shape="tinyllama", layers=4, samples=8, length=512
    )
    work = Workload(parser, words)
    spec = work.spec("slicing", sparsity=0.25)
    ours, plain = run_worker("ours", spec), run_worker("plain", spec)
    table = Table("", "seconds", "peak GiB", box=None)
    for name, cost in (("a layer at a time", ours), ("plain loop", plain)):
        table.add_row(name, str(cost), f"{cost.memory / GIB:.2f}")
    mine, theirs = (torch.tensor(json.loads(cost.printed)) for cost in (ours, plain))
    console = Console(width=150)
    console.print(str(work))
    console.print(table)
    console.print(
        f"plain/ours {plain.seconds / ours.seconds:.2f} "
        f"({plain.processor / ours.processor:.2f} in cpu), eigenvalues differ by "
        f"{float((mine / theirs - 1).abs().max()):.1e}"
    )
