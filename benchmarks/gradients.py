"""Taylor's gradients a layer at a time beside a loop that keeps them all: seconds and memory.

`python -m benchmarks gradients --shape 1b`
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.process import GIB, run_worker
from benchmarks.random_checkpoint import SHAPES, checkpoint
from espalier.models.shapes import Shapes, read_config

FLOAT32 = 4


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks gradients", description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tinyllama")
    parser.add_argument("--layers", type=int, default=4, help="0: the shape's own depth")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "espalier-bench",
    )
    options = parser.parse_args(words)
    options.cache.mkdir(parents=True, exist_ok=True)
    count = options.layers or int(SHAPES[options.shape]["num_hidden_layers"])
    model = checkpoint(options.cache, options.shape, count)
    shapes = Shapes.of(read_config(model))
    tokens = options.cache / f"gradient-tokens-{options.samples}-{options.length}.safetensors"
    size = (options.samples, options.length)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, shapes.vocabulary, size, generator=generator)
    save_file({"input_ids": ids}, tokens)
    spec = {"method": "gradients", "model": str(model), "tokens": str(tokens)}
    ours, plain = run_worker("ours", spec), run_worker("plain", spec)
    pairs = zip(json.loads(ours.printed), json.loads(plain.printed), strict=True)
    table = Table("", "seconds", "peak GiB", box=None)
    for name, cost in (("a layer at a time, all four forms", ours), ("all kept, one form", plain)):
        seconds = f"{cost.seconds:.1f} ({cost.processor:.0f} cpu)"
        table.add_row(name, seconds, f"{cost.memory / GIB:.2f}")
    layer = shapes.layer_parameters * FLOAT32 / GIB
    table.add_row("weights in float32", "", f"{shapes.parameters * FLOAT32 / GIB:.2f}")
    table.add_row("one layer", "", f"{layer:.2f}")
    console = Console(width=150)
    console.print(f"{model.name}, {options.samples} x {options.length} tokens")
    console.print(table)
    console.print(
        f"memory {plain.memory / ours.memory:.2f} to 1, importances differ by "
        f"{max(abs(mine / theirs - 1) for mine, theirs in pairs):.1e}"
    )
