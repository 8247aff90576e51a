"""Pruning beside a plain implementation and the limit: seconds, peak memory, ratios, growth.

`python -m benchmarks --methods wanda sparsegpt magnitude --layers 4`
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.limit import limit_seconds
from benchmarks.process import GIB, Cost, run_worker
from benchmarks.random_checkpoint import SHAPES, checkpoint
from benchmarks.workload import options_of
from espalier.models.shapes import Shapes, read_config

METHODS = ("wanda", "sparsegpt", "magnitude")


@dataclass(frozen=True)
class Work:
    """What is pruned: a model and its calibration."""

    model: Path
    method: str
    samples: int
    length: int


def measure(kind: str, work: Work, cache: Path) -> Cost:
    """Run `ours` or `plain` in a process of its own."""
    output = cache / f"output-{os.getpid()}"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    tokens = cache / f"tokens-{work.samples}-{work.length}.safetensors"
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 128256, (work.samples, work.length), generator=generator)
    save_file({"input_ids": ids}, tokens)
    spec = {
        "model": str(work.model),
        "output": str(output),
        "tokens": str(tokens),
        "method": work.method,
        "sparsity": 0.5,
        "samples": work.samples,
        "length": work.length,
    }
    cost = run_worker(kind, spec)
    shutil.rmtree(output)
    return cost


def side_by_side(works: list[Work], cache: Path, plain: bool, with_limit: bool) -> Table:
    """Ours, plain and the limit, a row a method."""
    headings = ("method", "model", "tokens", "ours s", "plain s", "limit s")
    table = Table(*headings, "plain/ours", "ours/limit", "ours GiB", "plain GiB")
    for work in works:
        shapes = Shapes.of(read_config(work.model))
        limit = limit_seconds(shapes, work.method, work.samples, work.length) if with_limit else 0
        ours = measure("ours", work, cache)
        other = measure("plain", work, cache) if plain else None
        table.add_row(
            work.method,
            work.model.name,
            f"{work.samples}x{work.length}",
            str(ours),
            str(other) if other else "",
            f"{limit:.1f}" if limit else "",
            f"{other.seconds / ours.seconds:.2f}" if other else "",
            f"{ours.seconds / limit:.2f}" if limit else "",
            f"{ours.memory / GIB:.2f}",
            f"{other.memory / GIB:.2f}" if other else "",
        )
    return table


def growth(cache: Path, method: str, shape: str) -> Table:
    """How one layer's cost grows with samples, length and width."""
    table = Table("varied", "samples", "length", "width", "seconds", "cpu s", "GiB", title=method)
    base = (8, 512, 0.5)
    cases = [("", base)]
    cases += [("samples", (16, 512, 0.5)), ("samples", (32, 512, 0.5))]
    cases += [("length", (8, 1024, 0.5)), ("length", (8, 2048, 0.5)), ("width", (8, 512, 1.0))]
    for varied, (samples, length, width) in cases:
        model = checkpoint(cache, shape, 1, width)
        cost = measure("ours", Work(model, method, samples, length), cache)
        columns = (samples, length, width, f"{cost.seconds:.1f}", f"{cost.processor:.1f}")
        table.add_row(varied, *map(str, columns), f"{cost.memory / GIB:.2f}")
    return table


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = options_of("benchmarks", __doc__, shape="1b", layers=4, samples=16, length=512)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--no-plain", action="store_true", help="ours and the limit only")
    parser.add_argument("--no-limit", action="store_true", help="do not time the bare products")
    parser.add_argument("--growth", action="store_true", help="how cost grows, one layer")
    options = parser.parse_args(words)
    layers = options.layers or int(SHAPES[options.shape]["num_hidden_layers"])
    options.cache.mkdir(parents=True, exist_ok=True)
    console = Console(width=130)
    if options.growth:
        for method in options.methods:
            console.print(growth(options.cache, method, options.shape))
        return
    model = checkpoint(options.cache, options.shape, layers)
    works = [Work(model, method, options.samples, options.length) for method in options.methods]
    console.print(side_by_side(works, options.cache, not options.no_plain, not options.no_limit))
