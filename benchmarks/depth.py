"""The depth search beside a plain loop over the whole model: seconds, memory, and equal scores.

`python -m benchmarks depth --layers 22 --left 21 11`
"""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.process import GIB, Cost, run_worker
from benchmarks.workload import Workload, options_of
from espalier.pruning.depth.cuts import cuts_of, layer_runs


def row(work: Workload, left: int) -> list[str]:
    """Ours and the plain loop on the same model, tokens and blocks."""
    spec, layers = work.spec("depth", left=left), work.shapes.layers
    ours, plain = run_worker("ours", spec), run_worker("plain", spec)
    shared = layer_runs(layers, cuts_of(layers, [layers - left]))
    looped = layers + (left + 1) * left
    return [
        work.model.name,
        f"{work.options.samples}x{work.options.length}",
        str(layers - left),
        *map(str, (ours, plain)),
        f"{plain.seconds / ours.seconds:.2f}",
        f"{looped / shared:.2f} ({looped}/{shared})",
        *(f"{cost.memory / GIB:.2f}" for cost in (ours, plain)),
        f"{_difference(ours, plain):.1e}",
    ]


def _difference(ours: Cost, plain: Cost) -> float:
    """The largest relative difference of a score."""
    pairs = zip(json.loads(ours.printed), json.loads(plain.printed), strict=True)
    return max(abs(mine / theirs - 1) for mine, theirs in pairs)


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = options_of(
        "benchmarks depth", __doc__, shape="tinyllama", layers=8, samples=2, length=512
    )
    parser.add_argument("--left", type=int, nargs="+", default=[7, 4], help="layers left")
    work = Workload(parser, words)
    table = Table(
        *("model", "tokens", "removed", "ours s", "plain s", "plain/ours", "layers run"),
        *("ours GiB", "plain GiB", "scores differ by"),
    )
    for left in work.options.left:
        table.add_row(*row(work, left))
    Console(width=150).print(table)
