"""Steps of Sheared-LLaMA's mask learning beside steps of plain training: seconds and memory.

`python -m benchmarks masks --shape tinyllama --layers 2`

Both are Composer's trainer with the same loss, optimizer and rows, in processes that take turns.
"""

import json
from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.process import GIB, Cost, run_worker
from benchmarks.workload import Workload, options_of

GOAL = 1.1
"""Of the time and memory of plain training, at most."""
KINDS = {"ours": "masks learned beside the weights", "plain": "weights alone"}


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = options_of(
        "benchmarks masks", __doc__, shape="tinyllama", layers=2, samples=4, length=256
    )
    parser.add_argument("--steps", type=int, default=6, help="of which the first is not counted")
    parser.add_argument("--turns", type=int, default=2)
    work = Workload(parser, words)
    spec = work.spec("masks", steps=work.options.steps)
    costs: dict[str, list[Cost]] = {kind: [] for kind in KINDS}
    for _ in range(work.options.turns):
        for kind in KINDS:
            costs[kind].append(run_worker(kind, spec))
    seconds = {kind: median(_steps(costs[kind])) for kind in KINDS}
    memory = {kind: max(cost.memory for cost in costs[kind]) for kind in KINDS}
    table = Table("", "seconds a step", "fastest, slowest", "peak GiB", box=None)
    for kind, name in KINDS.items():
        steps = _steps(costs[kind])
        spread = f"{min(steps):.2f}, {max(steps):.2f}"
        table.add_row(name, f"{seconds[kind]:.2f}", spread, f"{memory[kind] / GIB:.2f}")
    console = Console(width=150)
    console.print(f"{work}, {work.options.turns} x {work.options.steps - 1} steps each")
    console.print(table)
    console.print(
        f"time {seconds['ours'] / seconds['plain']:.3f} to 1, memory "
        f"{memory['ours'] / memory['plain']:.3f} to 1; goal {GOAL} to 1 or less"
    )


def _steps(costs: Sequence[Cost]) -> list[float]:
    """Seconds of each step but the first of each process, which makes the optimizer's state."""
    return [seconds for cost in costs for seconds in json.loads(cost.printed)[1:]]
