"""FLAP and Wanda-sp beside plain loops over the whole model: seconds, memory, units that differ.

`python -m benchmarks units --shape 1b --layers 4`
"""

import json
import tempfile
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.process import GIB, run_worker
from benchmarks.workload import Workload, options_of

METHODS = ("flap", "wanda-sp")


def row(method: str, work: Workload) -> list[str]:
    """Ours and the plain loop on the same model and tokens."""
    costs = {}
    for kind in ("ours", "plain"):
        with tempfile.TemporaryDirectory(dir=work.options.cache) as output:
            spec = work.spec(method, output=output, sparsity=work.options.sparsity)
            costs[kind] = run_worker(kind, spec)
    ours, plain = costs["ours"], costs["plain"]
    return [
        method,
        *map(str, (ours, plain)),
        f"{plain.seconds / ours.seconds:.2f}",
        *(f"{cost.memory / GIB:.2f}" for cost in (ours, plain)),
        _differing(json.loads(ours.printed), json.loads(plain.printed)),
    ]


def _differing(ours: list[Any], plain: list[Any]) -> str:
    """Units that only one of them keeps, of those that the plain loop keeps."""
    pairs = [
        ({*mine}, {*theirs})
        for layer, other in zip(ours, plain, strict=True)
        for mine, theirs in zip(layer, other, strict=True)
    ]
    different = sum(len(mine ^ theirs) for mine, theirs in pairs)
    return f"{different} of {sum(len(theirs) for _, theirs in pairs)}"


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = options_of(
        "benchmarks units", __doc__, shape="tinyllama", layers=4, samples=64, length=128
    )
    parser.add_argument("--sparsity", type=float, default=0.2)
    work = Workload(parser, words)
    table = Table(
        *("method", "ours s", "plain s", "plain/ours", "ours GiB", "plain GiB", "units differ"),
        title=f"{work}, {work.options.sparsity:g}",
    )
    for method in METHODS:
        table.add_row(*row(method, work))
    Console(width=150).print(table)
