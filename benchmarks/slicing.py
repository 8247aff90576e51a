"""SliceGPT a layer at a time beside a plain loop over the whole model: seconds and memory.

`python -m benchmarks slicing --layers 4`
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


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks slicing", description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tinyllama")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "espalier-bench",
    )
    options = parser.parse_args(words)
    options.cache.mkdir(parents=True, exist_ok=True)
    model = checkpoint(options.cache, options.shape, options.layers)
    size = (options.samples, options.length)
    tokens = options.cache / f"slicing-tokens-{options.samples}-{options.length}.safetensors"
    generator = torch.Generator().manual_seed(0)
    vocabulary = Shapes.of(read_config(model)).vocabulary
    save_file({"input_ids": torch.randint(0, vocabulary, size, generator=generator)}, tokens)
    spec = {"method": "slicing", "model": str(model), "tokens": str(tokens), "sparsity": 0.25}
    ours, plain = run_worker("ours", spec), run_worker("plain", spec)
    table = Table("", "seconds", "peak GiB", box=None)
    for name, cost in (("a layer at a time", ours), ("plain loop", plain)):
        seconds = f"{cost.seconds:.1f} ({cost.processor:.0f} cpu)"
        table.add_row(name, seconds, f"{cost.memory / GIB:.2f}")
    mine, theirs = (torch.tensor(json.loads(cost.printed)) for cost in (ours, plain))
    console = Console(width=150)
    console.print(f"{model.name}, {options.samples} x {options.length} tokens")
    console.print(table)
    console.print(
        f"plain/ours {plain.seconds / ours.seconds:.2f} "
        f"({plain.processor / ours.processor:.2f} in cpu), eigenvalues differ by "
        f"{float((mine / theirs - 1).abs().max()):.1e}"
    )
