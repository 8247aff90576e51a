"""SLEB's search beside its plain loop, every candidate run whole: seconds, memory, equal losses.

`python -m benchmarks greedy --layers 8 --gone 3`
"""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.process import GIB, run_worker
from benchmarks.workload import Workload, options_of


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = options_of(
        "benchmarks greedy", __doc__, shape="tinyllama", layers=8, samples=2, length=256
    )
    parser.add_argument("--gone", type=int, default=3, help="layers removed")
    work = Workload(parser, words)
    spec = work.spec("greedy", gone=work.options.gone)
    ours, plain = run_worker("ours", spec), run_worker("plain", spec)
    found, looped = json.loads(ours.printed), json.loads(plain.printed)
    table = Table("", "seconds", "peak GiB", "layers run", "order", box=None)
    for name, cost, said in (("shared", ours, found), ("plain loop", plain, looped)):
        order = " ".join(map(str, said["order"]))
        table.add_row(name, str(cost), f"{cost.memory / GIB:.2f}", str(said["runs"]), order)
    pairs = zip(found["losses"], looped["losses"], strict=True)
    apart = max(abs(mine / theirs - 1) for mine, theirs in pairs)
    console = Console(width=150)
    console.print(str(work))
    console.print(table)
    console.print(
        f"{plain.seconds / ours.seconds:.2f} times as fast, where the layers run allow "
        f"{looped['runs'] / found['runs']:.2f}; losses differ by {apart:.1e}"
    )
